"""From how many sides the cameras looked: what a caller must know to trust the side that a preview does not show."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from services.export.model import Floats

_STEEP = 0.15  # horizontal share of a viewing direction below which it has no azimuth worth the name: 9° from straight down


def camera_coverage(cameras: Mapping[str, Any]) -> dict[str, float]:
    """How the cameras (`images` of cameras.json, +Y up, object at the origin) are spread around the object.

    azimuth_span_deg: 360 less the widest gap between the viewing directions seen from above; 0 where all look down.
    direction_span_deg: the largest angle between two viewing directions.
    baseline: spread (rms) of the camera centres across the mean viewing direction, as a share of their distance from the object.
    """
    R = np.array([camera["R"] for camera in cameras.values()], np.float64)
    t = np.array([camera["t"] for camera in cameras.values()], np.float64)
    centres, forward = -np.einsum("nji,nj->ni", R, t), R[:, 2]
    return {
        "azimuth_span_deg": round(_azimuth_span(forward), 1),
        "direction_span_deg": round(float(np.degrees(np.arccos(np.clip((forward @ forward.T).min(), -1, 1)))), 1),
        "baseline": round(_baseline(centres, forward), 3),
    }


def _azimuth_span(forward: Floats) -> float:
    level = forward[np.hypot(forward[:, 0], forward[:, 2]) > _STEEP]
    if not len(level):
        return 0.0
    azimuths = np.sort(np.degrees(np.arctan2(level[:, 0], level[:, 2])))
    return 360.0 - float(np.diff(np.append(azimuths, azimuths[0] + 360.0)).max())


def _baseline(centres: Floats, forward: Floats) -> float:
    mean = forward.mean(axis=0)
    mean /= max(float(np.linalg.norm(mean)), 1e-9)
    moved = centres - centres.mean(axis=0)
    across = moved - np.outer(moved @ mean, mean)
    distance = float(np.linalg.norm(centres, axis=1).mean())
    return float(np.sqrt((across**2).sum(axis=1).mean())) / max(distance, 1e-9)
