"""Which photos are matched with which."""

from itertools import combinations

import numpy as np

from services.sfm.features import Features
from services.sfm.pair_ranking import largest_group, promising
from services.sfm.pairs import look_alikes, neighbours, select_pairs
from services.sfm.params import SfmParams


def features_of(place: int, seed: int) -> Features:
    """Features of a photo taken at one of several places: its descriptors are those of the place, with noise."""
    scene = np.random.default_rng(place).integers(0, 200, (150, 128))
    noise = np.random.default_rng(1000 + seed).normal(0, 8, scene.shape)
    return Features(np.ones((150, 4), np.float32), np.clip(scene + noise, 0, 255).astype(np.uint8), False)


def test_a_small_set_is_matched_in_full() -> None:
    """Every pair once, up to the limit."""
    assert len(select_pairs([features_of(0, i) for i in range(12)], SfmParams())) == 66
    assert len(select_pairs([features_of(0, i) for i in range(12)], SfmParams(matching="exhaustive", exhaustive_up_to=3))) == 66


def test_a_large_set_is_matched_with_neighbours_and_look_alikes() -> None:
    """The number of pairs grows with the number of photos, not with its square."""
    features = [features_of(i // 10, i) for i in range(100)]
    pairs = select_pairs(features, SfmParams(sequential_overlap=5))
    assert pairs == sorted(set(pairs)) and all(i < j for i, j in pairs)
    assert {(i, i + 1) for i in range(99)} <= set(pairs)
    assert len(pairs) < 2000


def test_a_quick_look_keeps_the_pairs_that_have_much_in_common() -> None:
    """Thirty photos of three places: each keeps the nine others of its own; a patient look keeps every candidate."""
    features = [features_of(i % 3, i) for i in range(30)]
    pairs = select_pairs(features, SfmParams())
    assert {(i, j) for i in range(30) for j in range(i + 1, 30) if i % 3 == j % 3} <= set(pairs)
    assert len(pairs) < 30 * 12
    assert len(select_pairs(features, SfmParams(), thorough=True)) == 435


def test_a_crowd_does_not_hide_the_way_to_another_crowd() -> None:
    """Each photo's best partners are all in its own crowd of twenty; two pairs still lead across, the best that do."""
    pairs = list(combinations(range(40), 2))
    scores = np.array([100 if (i < 20) == (j < 20) else 30 if (i, j) in {(3, 35), (5, 22)} else 2 for i, j in pairs])
    kept = set(promising(pairs, scores, 40))
    assert {(3, 35), (5, 22)} <= kept
    assert len(kept) < len(pairs) / 2


def test_pairs_tell_which_photos_hang_together() -> None:
    """What two pairs share a photo of is one group; the largest has the four of 0, 1, 2 and 9."""
    assert largest_group([(0, 1), (4, 5), (1, 2), (2, 9), (7, 8)]) == 4
    assert largest_group([]) == 0


def test_neighbours_reach_further_in_doubling_steps() -> None:
    """So that a chain does not break at one bad photo."""
    assert [j for i, j in neighbours(40, 3) if i == 0] == [1, 2, 3, 4, 8, 16, 32]


def test_photos_of_one_place_find_each_other_whatever_their_order() -> None:
    """Twelve places, four photos of each, shuffled: a photo's three look-alikes are the others of its place."""
    places = np.random.default_rng(0).permutation(np.repeat(np.arange(12), 4))
    pairs = look_alikes([features_of(int(place), i) for i, place in enumerate(places)], seed=0, similar=3)
    right = [places[i] == places[j] for i, j in pairs]
    assert sum(right) == 12 * 6 and np.mean(right) > 0.9


def test_look_alikes_are_the_same_every_time() -> None:
    """The vocabulary is learned with a seed; a photo without features has none and does not matter."""
    features = [*(features_of(i // 4, i) for i in range(20)), Features(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8), False)]
    assert look_alikes(features, seed=3) == look_alikes(features, seed=3)
