"""How a reconstruction is shared: batches of photos whose features are looked for, then batches of pairs that are matched.

features   of a batch of photos        pairs   which of them are worth matching: one part, which compares all photos
matching   of a batch of pairs, with their verification

Where cameras are is for the join to find: mapping needs all matches, and adds one photo after the other.
"""

from collections.abc import Sequence
from glob import escape

from services.sfm.handover import DESCRIPTORS, KEYPOINTS, LARGEST, PAIRS, read_pairs
from services.sfm.ladder import resolutions
from services.sfm.pair_ranking import Pairs
from services.sfm.pairs import seeks_look_alikes
from services.sfm.params import SfmParams
from services.sfm.photos import Photo, read_photos
from services.sfm.stage import LEAST_PHOTOS
from shared.batches import batches_of
from shared.runtime.stage import Part
from shared.runtime.workspace import Workspace

PHOTOS_PER_PART = 4  # two per core of a small worker: three CPU seconds
PAIRS_PER_PART = 48  # as long; of fewer, the index that the matcher makes of each photo would be made more often than it is used
ALL_PAIRS = "all"  # the one part that chooses pairs


def photo_batches(photos: Sequence[Photo]) -> dict[str, Sequence[int]]:
    """Indices of the photos of each part of `features`, by its name."""
    return {f"photos-{k:03d}": own for k, own in enumerate(batches_of(range(len(photos)), PHOTOS_PER_PART))}


def pair_batches(pairs: Pairs) -> dict[str, Pairs]:
    """The pairs of each part of `matching`, by its name. In their order, few photos meet in a batch."""
    return {f"pairs-{k:03d}": list(own) for k, own in enumerate(batches_of(pairs, PAIRS_PER_PART))}


def photos_of(workspace: Workspace) -> list[Photo]:
    """All photos of the job; a part's folder has the files of its own alone."""
    return read_photos(workspace.inputs("ingest"), workspace.inputs("segmentation"))


def chosen_pairs(workspace: Workspace) -> Pairs:
    """As the round `pairs` left them."""
    return read_pairs(workspace.part("pairs", ALL_PAIRS))


def parts_of(workspace: Workspace, params: SfmParams, round: str) -> tuple[Part, ...]:
    """The round's parts; none where sharing does not pay."""
    if round == "matching":
        return tuple(_matching_part(name, pairs) for name, pairs in pair_batches(chosen_pairs(workspace)).items())
    photos = photos_of(workspace)
    if round == "pairs":
        return (_pairs_part(len(photos), params),)
    if len(photos) < LEAST_PHOTOS:
        return ()
    masked = resolutions(params, workspace.reduction, any(photo.mask for photo in photos))[0].use_masks
    return tuple(_features_part(name, [photos[i] for i in own], workspace, masked) for name, own in photo_batches(photos).items())


def _features_part(name: str, own: Sequence[Photo], workspace: Workspace, masked: bool) -> Part:
    ingest, segmentation = workspace.inputs("ingest"), workspace.inputs("segmentation")
    images = [escape(photo.path.relative_to(ingest).as_posix()) for photo in own]
    masks = [escape(photo.mask.relative_to(segmentation).as_posix()) for photo in own if photo.mask and masked]
    return Part(name, float(len(own)), {"ingest": ("photos.json", *images), "segmentation": ("masks.json", *masks)})


def _pairs_part(count: int, params: SfmParams) -> Part:
    kinds = (KEYPOINTS, DESCRIPTORS) if seeks_look_alikes(count, params) else (LARGEST,)
    return Part(ALL_PAIRS, 1.0, {"ingest": ("photos.json",), "parts/features": tuple(kind.of_all for kind in kinds)}, parts=())


def _matching_part(name: str, pairs: Pairs) -> Part:
    features = [kind.file(i) for i in sorted({i for pair in pairs for i in pair}) for kind in (KEYPOINTS, DESCRIPTORS)]
    needs = {"ingest": ("photos.json",), "parts/features": tuple(features), "parts/pairs": (PAIRS,)}
    return Part(name, float(len(pairs)), needs, parts=())
