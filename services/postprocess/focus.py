"""Where the cameras look, and whether they orbit it. World frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.postprocess.capture import Camera, Floats

# An orbit: axes meet well within the distance of the cameras, and the directions to the cameras spread out.
# A façade walked along has parallel axes; one panned from a spot has directions that hardly differ.
MAX_MISS = 0.35
MIN_SPREAD_DEG = 50.0


@dataclass(frozen=True)
class Focus:
    """The point nearest to all optical axes."""

    point: Floats
    distance: float  # median distance of the cameras
    miss: float  # median distance of the axes from the point, as a fraction of `distance`
    spread_deg: float  # largest angle between the directions to two cameras
    up: Floats  # unit vector; the photographer's up, tilted towards where the cameras stand

    @property
    def orbited(self) -> bool:
        """Whether the cameras go around it."""
        return self.miss < MAX_MISS and self.spread_deg > MIN_SPREAD_DEG


def find_focus(cameras: Sequence[Camera]) -> Focus:
    """Least-squares meeting point of the optical axes."""
    centres = np.array([camera.centre for camera in cameras])
    axes = np.array([camera.forward for camera in cameras])
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    # The small term keeps parallel axes solvable: the point then stays near the cameras, and is no orbit's.
    matrix = across.sum(0) + 1e-6 * np.eye(3)
    point = np.linalg.solve(matrix, np.einsum("nij,nj->i", across, centres) + 1e-6 * centres.mean(0))
    offsets = centres - point
    distances = np.linalg.norm(offsets, axis=1)
    distance = float(np.median(distances))
    in_front = np.einsum("nj,nj->n", -offsets, axes) > 0
    miss = float(np.median(np.linalg.norm(np.einsum("nij,nj->ni", across, offsets), axis=1)) / max(distance, 1e-12))
    directions = offsets / np.maximum(distances, 1e-12)[:, None]
    spread = float(np.degrees(np.arccos(np.clip((directions @ directions.T).min(), -1, 1))))
    return Focus(point, distance, miss if in_front.mean() > 0.8 else np.inf, spread, _up(cameras, directions))


def cameras_up(cameras: Sequence[Camera]) -> Floats:
    """Unit vector: the mean of what is up in each photo."""
    mean = np.mean([camera.up for camera in cameras], axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12))


def _up(cameras: Sequence[Camera], directions: Floats) -> Floats:
    """Photos taken from steep above have an "up" that lies in the ground; the mean direction to the cameras corrects it."""
    mean = cameras_up(cameras) + directions.mean(0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12))
