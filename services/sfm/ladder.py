"""Attempts at placing all photos, from the cheapest to the most patient, until one is good enough."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from services.sfm.features import Features, extract_features, feature_scale
from services.sfm.intrinsics import CameraGroup
from services.sfm.keypoint_refinement import Refinement
from services.sfm.mapping import Component, MappingTask, map_globally, map_incrementally
from services.sfm.matching import flat_share, linked_pairs, match_pairs, median_movement_px, write_database
from services.sfm.pair_ranking import Pairs, largest_group
from services.sfm.pairs import select_pairs
from services.sfm.params import SfmParams
from services.sfm.photos import Photo
from shared.contracts.manifest import Warning
from shared.thread_count import thread_count

Progress = Callable[[float, str], None]
Stretch = Callable[[float, float, str], Callable[[float], None]]  # of an attempt, from one fraction to another, with its sentence

FIRST_SPAN, SECOND_SPAN = (0.0, 0.55), (0.55, 1.0)  # of the ladder's progress
EXTRACTED, MATCHED = 0.4, 0.8  # of an attempt's progress when features are found, and when they are matched
EXTRACTING_WORDS, MATCHING_WORDS = "finding features", "matching photos"

STILL_PX = 1.0  # a tripod's background moves by 0.05 px, a hand that stays in one place by several

FLAT_SHARE = 0.95  # of the linked pairs; 0.4 to 0.7 in captures with depth, whose pairs of few matches look flat by chance


@dataclass(frozen=True)
class Resolution:
    """How closely photos are looked at."""

    image_size: int
    num_features: int
    use_masks: bool
    thorough: bool  # match all candidate pairs, also those that a quick look thinks little of


@dataclass(frozen=True)
class Seen:
    """What an attempt had to go by."""

    linked_pairs: int
    capped: bool  # features were left out for their number
    still: bool = False  # the camera stood still, and what agrees is its background: no attempt finds a place for it


@dataclass
class Search:
    """The state of the ladder: what was tried and what was found."""

    photos: list[Photo]
    groups: list[CameraGroup]
    params: SfmParams
    scratch: Path
    progress: Progress
    components: list[Component] = field(default_factory=list)  # of the best attempt, best first
    tried: list[dict[str, object]] = field(default_factory=list)
    pixel_scale: float = 1.0  # of the best attempt
    feature_counts: list[int] = field(default_factory=list)
    seen_counts: list[int] = field(default_factory=list)  # features of each photo in the latest attempt
    links: Pairs = field(default_factory=list)  # pairs with verified matches in the latest attempt, as indices of the photos
    refinement: Refinement | None = None  # of the best component; None where it did not help
    stood_still: bool = False  # the camera, by its photos' background, which no mask leaves out
    flat: bool = False  # in the latest attempt one homography explains each pair: photos from one place, or of one plane
    measured: tuple[Warning, ...] = ()  # what ingest found wrong with photos that may keep them from being placed

    @property
    def fixed_cameras(self) -> frozenset[int]:
        """Ids of cameras whose intrinsics were given."""
        return frozenset(index + 1 for index, group in enumerate(self.groups) if group.fixed)

    def good_enough(self) -> bool:
        """Whether so many photos are placed that more effort is not worth it."""
        return self._placed_of(len(self.photos))

    def exhausted(self) -> bool:
        """Whether so many are placed of those that matches connect that no other mapper does better from the same matches."""
        return self._placed_of(largest_group(self.links))

    def _placed_of(self, photos: int) -> bool:
        return bool(self.components) and self.components[0].registered >= self.params.retry_below * photos

    def offer(self, components: list[Component], rung: str, scale: float, counts: list[int]) -> None:
        """Keeps the attempt when it is better than those before."""
        self.tried.append({"attempt": rung, "registered": components[0].registered if components else 0})
        if components and (not self.components or components[0].rank[0] > self.components[0].rank[0]):
            self.components, self.pixel_scale, self.feature_counts = components, scale, counts


Matching = Callable[[Search, Resolution, Path, Stretch], list[Features]]  # fills a new database; the photos' features


def climb(search: Search, reduction: int, first_matching: Matching) -> None:
    """Tries incremental, global and relaxed mapping at the first resolution, then again at the second. `first_matching`: how the first
    resolution's matches are come by; those of the second are always made here."""
    first, second = resolutions(search.params, reduction, any(photo.mask for photo in search.photos))
    seen = attempt(search, first, "first", FIRST_SPAN, first_matching)
    if not search.good_enough() and worth_a_second(search.photos, first, second, seen):
        attempt(search, second, "second", SECOND_SPAN, match_all)


def resolutions(params: SfmParams, reduction: int, masked: bool) -> tuple[Resolution, Resolution]:
    """Of the first and the second try. After memory ran out both look less closely; the second does without masks."""
    factor = 0.6**reduction
    first = Resolution(round(params.max_image_size * factor), round(params.max_num_features * factor), params.use_masks and masked, False)
    second = Resolution(round(params.retry_image_size * factor), round(params.retry_num_features * factor), False, True)
    return first, second


def worth_a_second(photos: list[Photo], first: Resolution, second: Resolution, seen: Seen) -> bool:
    """Whether the second try sees anything that the first did not, of photos that have anything to do with each other."""
    if seen.still:
        return False
    if first.use_masks and not second.use_masks:
        return True
    sharper = any(feature_scale(photo, second.image_size) > feature_scale(photo, first.image_size) for photo in photos)
    return seen.linked_pairs > 0 and (sharper or seen.capped)


def pixel_scale(photos: list[Photo], resolution: Resolution) -> float:
    """Pixels of the working images per pixel of those that features are found in; of the photo that is reduced most."""
    return max(1.0 / feature_scale(photo, resolution.image_size) for photo in photos)


def attempt(search: Search, resolution: Resolution, name: str, span: tuple[float, float], matching: Matching) -> Seen:
    """One try with new features."""
    start, end = span

    def part(low: float, high: float, message: str) -> Callable[[float], None]:
        return lambda fraction: search.progress(start + (end - start) * (low + (high - low) * fraction), message)

    database, scale = search.scratch / f"{name}.db", pixel_scale(search.photos, resolution)
    features = matching(search, resolution, database, part)
    counts = [len(f.keypoints) for f in features]
    search.links, search.seen_counts = linked_pairs(database), counts
    search.flat = flat_share(database) >= FLAT_SHARE
    still = search.stood_still and median_movement_px(database) < STILL_PX
    seen = Seen(len(search.links), any(f.capped for f in features), still)
    if seen.linked_pairs and not seen.still:
        task = mapping_task(search, database, scale, name, part(MATCHED, 1.0, "placing cameras"))
        _map(search, task, name, scale, counts)
    return seen


def match_all(search: Search, resolution: Resolution, database: Path, stretch: Stretch) -> list[Features]:
    """Finds features and matches them."""
    features = extract_all(search.photos, resolution, stretch(0.0, EXTRACTED, EXTRACTING_WORDS))
    write_database(database, search.photos, search.groups, features)
    pairs = select_pairs(features, search.params, resolution.thorough)
    scale, told = pixel_scale(search.photos, resolution), stretch(EXTRACTED, MATCHED, MATCHING_WORDS)
    match_pairs(database, search.photos, pairs, scale, search.params.random_seed, told)
    return features


def _map(search: Search, task: MappingTask, name: str, scale: float, counts: list[int]) -> None:
    rungs: list[tuple[str, Callable[[], list[Component]]]] = [
        ("incremental", lambda: map_incrementally(task)),
        ("global", lambda: map_globally(task)),
        ("relaxed", lambda: map_incrementally(task, relaxed=True)),
    ]
    for rung, run in rungs:
        search.offer(run(), f"{name} {rung}", scale, counts)
        if search.exhausted():
            return


def extract_all(photos: list[Photo], resolution: Resolution, progress: Callable[[float], None]) -> list[Features]:
    """Features of every photo, a few photos at a time."""
    found = []
    with ThreadPoolExecutor(min(thread_count(), 8)) as pool:

        def extract(photo: Photo) -> Features:
            return extract_features(photo, resolution.image_size, resolution.num_features, resolution.use_masks)

        for features in pool.map(extract, photos):
            found.append(features)
            progress(len(found) / len(photos))
    return found


def mapping_task(search: Search, database: Path, scale: float, name: str, progress: Callable[[float], None]) -> MappingTask:
    """The task of the mappers over one database."""
    placed = 2  # the initial pair is not told

    def registered() -> None:
        nonlocal placed
        placed += 1
        progress(min(1.0, placed / len(search.photos)))

    return MappingTask(
        database=database,
        images=search.photos[0].path.parent,
        scratch=search.scratch / name,
        pixel_scale=scale,
        seed=search.params.random_seed,
        fixed_cameras=search.fixed_cameras,
        registered=registered,
    )
