"""What a part of a shared reconstruction computes: the same functions as `ladder.match_all`, on its own photos or pairs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from services.sfm.colmap import pycolmap
from services.sfm.features import Features
from services.sfm.handover import add_matches, read_features, read_keypoints, read_largest, write_features, write_matches, write_pairs
from services.sfm.intrinsics import camera_groups
from services.sfm.ladder import (
    EXTRACTING_WORDS,
    FIRST_SPAN,
    MATCHED,
    MATCHING_WORDS,
    Resolution,
    Search,
    Stretch,
    extract_all,
    pixel_scale,
    resolutions,
)
from services.sfm.matching import match_pairs, write_database
from services.sfm.pairs import seeks_look_alikes, select_pairs
from services.sfm.params import SfmParams
from services.sfm.partition import chosen_pairs, pair_batches, photo_batches, photos_of
from services.sfm.photos import Photo
from services.sfm.reconstruction import LADDER_SHARE, reconstruct
from shared.contracts.manifest import StageReport
from shared.runtime.workspace import Workspace

_SHARED = LADDER_SHARE * FIRST_SPAN[1] * MATCHED  # of `run`'s progress: done when the join begins
_NOTHING = Features(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8), False)


@dataclass(frozen=True)
class Share:
    """What each part knows: all photos of the job, of which it has the files that it needs, and how closely they are looked at."""

    workspace: Workspace
    params: SfmParams
    photos: list[Photo]
    resolution: Resolution

    def told(self, message: str) -> Callable[[float], None]:
        """Progress of the part."""
        return lambda fraction: self.workspace.progress(fraction, message)


def compute_part(workspace: Workspace, params: SfmParams, round: str, part: str) -> None:
    """A round's work on the photos or pairs of one part."""
    pycolmap.set_random_seed(params.random_seed)
    photos = photos_of(workspace)
    first, _ = resolutions(params, workspace.reduction, any(photo.mask for photo in photos))
    _WORK[round](Share(workspace, params, photos, first), part)


def _features(share: Share, part: str) -> None:
    own = photo_batches(share.photos)[part]
    found = extract_all([share.photos[i] for i in own], share.resolution, share.told(EXTRACTING_WORDS))
    for index, features in zip(own, found, strict=True):
        write_features(features, index, share.workspace.outputs)


def _pairs(share: Share, part: str) -> None:
    share.workspace.progress(0.0, "choosing pairs")
    read = read_features if seeks_look_alikes(len(share.photos), share.params) else read_largest
    write_pairs(select_pairs(handed_over(share.workspace, share.photos, read), share.params), share.workspace.outputs)


def _matching(share: Share, part: str) -> None:
    pairs = pair_batches(chosen_pairs(share.workspace))[part]
    own = {i for pair in pairs for i in pair}
    features = handed_over(share.workspace, share.photos, lambda i, folder: read_features(i, folder) if i in own else _NOTHING)
    database = share.workspace.scratch / "matching.db"
    write_database(database, share.photos, camera_groups(share.photos, share.params), features)
    scale = pixel_scale(share.photos, share.resolution)
    match_pairs(database, share.photos, pairs, scale, share.params.random_seed, share.told(MATCHING_WORDS))
    write_matches(database, share.workspace.outputs)


_WORK: dict[str, Callable[[Share, str], None]] = {"features": _features, "pairs": _pairs, "matching": _matching}


def handed_over(workspace: Workspace, photos: list[Photo], read: Callable[[int, Path], Features]) -> list[Features]:
    """What `read` finds of each photo in what its part of the round `features` made."""
    maker = {i: workspace.part("features", part) for part, own in photo_batches(photos).items() for i in own}
    return [read(i, maker[i]) for i in range(len(photos))]


def join_parts(workspace: Workspace, params: SfmParams) -> StageReport:
    """Places the photos by what all parts matched; should that not be enough, the second try is made here, alone."""

    def rest(fraction: float, message: str) -> None:
        workspace.progress((fraction - _SHARED) / (1.0 - _SHARED), message)

    return reconstruct(replace(workspace, report_progress=rest), params, lambda *attempt: _taken_over(workspace, *attempt))


def _taken_over(workspace: Workspace, search: Search, resolution: Resolution, database: Path, stretch: Stretch) -> list[Features]:
    features = handed_over(workspace, search.photos, read_keypoints)
    write_database(database, search.photos, search.groups, features)
    opened = pycolmap.Database.open(database)
    for part in pair_batches(chosen_pairs(workspace)):
        add_matches(opened, workspace.part("matching", part))
    opened.close()
    return features
