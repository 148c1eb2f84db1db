"""When more effort is worth it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.sfm.ladder import Resolution, Search, Seen, resolutions, worth_a_second
from services.sfm.pair_ranking import Pairs
from services.sfm.params import SfmParams
from services.sfm.photos import Photo

FIRST, SECOND = Resolution(1600, 4096, False, False), Resolution(2400, 8192, False, True)


def photos(longest: int) -> list[Photo]:
    return [Photo("p", Path("p.jpg"), longest, 600, longest, 600)]


def test_a_second_try_must_be_able_to_see_more() -> None:
    """Larger images, or more features where some were left out."""
    assert worth_a_second(photos(3000), FIRST, SECOND, Seen(linked_pairs=3, capped=False))
    assert worth_a_second(photos(1600), FIRST, SECOND, Seen(linked_pairs=3, capped=True))
    assert not worth_a_second(photos(1600), FIRST, SECOND, Seen(linked_pairs=3, capped=False))


def test_photos_that_have_nothing_in_common_get_no_second_try() -> None:
    """A job that cannot succeed fails at once."""
    assert not worth_a_second(photos(3000), FIRST, SECOND, Seen(linked_pairs=0, capped=True))


def test_a_tripod_before_a_background_gets_no_second_try() -> None:
    """More features of what stood still place nothing."""
    assert not worth_a_second(photos(3000), FIRST, SECOND, Seen(linked_pairs=9, capped=True, still=True))


@pytest.mark.parametrize(
    ("links", "exhausted"), [([(0, 1), (1, 2), (3, 4), (4, 5)], True), ([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)], False)]
)
def test_other_mappers_are_tried_while_matches_connect_more_photos(links: Pairs, exhausted: bool) -> None:
    """Three of six placed: enough where matches connect no more than three, not where they connect all."""
    placed: Any = SimpleNamespace(registered=3)
    search = Search(6 * photos(800), [], SfmParams(), Path(), lambda done, message: None, [placed], links=links)
    assert search.exhausted() is exhausted
    assert not search.good_enough()


def test_masks_are_dropped_before_giving_up() -> None:
    """Masks may have hidden what connects the photos."""
    first, second = resolutions(SfmParams(), reduction=0, masked=True)
    assert first.use_masks and not second.use_masks
    assert worth_a_second(photos(800), first, second, Seen(linked_pairs=0, capped=False))
    assert not resolutions(SfmParams(use_masks=False), reduction=0, masked=True)[0].use_masks


def test_after_memory_ran_out_everything_is_smaller() -> None:
    """60 % of the side length and of the features."""
    first, second = resolutions(SfmParams(), reduction=1, masked=False)
    assert (first.image_size, first.num_features) == (720, 1843)
    assert (second.image_size, second.num_features) == (1440, 4915)
