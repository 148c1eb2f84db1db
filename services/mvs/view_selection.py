"""Which photos each photo is compared with, and between which depths: from the points that they share."""

import zlib  # noqa: F401  before pycolmap: it carries a zlib of its own
from dataclasses import dataclass
from pathlib import Path

import cv2  # noqa: F401  before pycolmap, for the same reason
import numpy as np
import pycolmap

from services.mvs.views import View

BEST_ANGLE_DEG = 15.0  # enough parallax to measure, little enough to look alike
ANGLE_SPREAD_DEG = 20.0  # on an orbit of 24 the neighbours are 21 to 28 degrees apart: they must still count
_CANDIDATES = 16


@dataclass(frozen=True)
class Selection:
    """For one view, indices of the views it is matched with, best first; those asked whether they agree (more of the same);
    its depth range (camera z; world units).
    """

    sources: tuple[int, ...]
    checks: tuple[int, ...]
    near: float
    far: float


def angle_weight(angle_deg: float) -> float:
    """How good a triangulation angle is, 0..1."""
    spread = ANGLE_SPREAD_DEG if angle_deg > BEST_ANGLE_DEG else BEST_ANGLE_DEG / 2
    return float(np.exp(-((angle_deg - BEST_ANGLE_DEG) ** 2) / (2 * spread**2)))


def select_views(folder: Path, views: list[View], count: int, check_count: int, min_angle_deg: float) -> list[Selection]:
    """The `count` best sources of each view by shared points and angle, `check_count` to check against, and depth ranges with a margin."""
    model = pycolmap.MVSModel()
    model.read_from_colmap(str(folder), "sparse", "images")
    shared = model.compute_shared_points()
    angles = model.compute_triangulation_angles(50.0)
    overlapping = model.get_max_overlapping_images(_CANDIDATES, min_angle_deg)
    ranges = model.compute_depth_ranges()
    index_of = {Path(model.get_image_name(i)).name: i for i in range(len(ranges))}
    rows = [index_of.get(view.image.name) for view in views]
    # A source must have a depth map of its own: it is asked whether it agrees.
    place = {row: k for k, row in enumerate(rows) if row is not None and overlapping[row] and ranges[row][1] > ranges[row][0] > 0}
    selections = []
    for row in rows:
        if row not in place:
            selections.append(Selection((), (), 0.0, 0.0))
            continue
        scores = {
            place[other]: shared[row][other] * angle_weight(np.degrees(angles[row][other])) for other in overlapping[row] if other in place
        }
        ordered = sorted(scores, key=lambda k: (-scores[k], k))
        selections.append(Selection(tuple(ordered[:count]), tuple(ordered[:check_count]), 0.85 * ranges[row][0], 1.2 * ranges[row][1]))
    return selections
