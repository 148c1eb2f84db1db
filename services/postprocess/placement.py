"""The one similarity from sfm's world to the model's frame: +Y up, standing on the origin, first camera on the +Z side, longest side 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.postprocess.capture import Camera, Floats
from services.postprocess.focus import cameras_up
from services.postprocess.support_plane import Plane

MAX_PLANE_TILT_DEG = 75.0  # a support plane steeper against the photographer's up is not what things stand on


@dataclass(frozen=True)
class Similarity:
    """x_model = scale * R x_world + t."""

    scale: float
    R: Floats
    t: Floats
    source: str  # of the scale

    def apply(self, points: Floats) -> Floats:
        """World points n×3 in the model's frame."""
        return self.scale * points @ self.R.T + self.t

    def as_json(self) -> dict[str, Any]:
        """As it is written for export."""
        return {"scale": self.scale, "R": self.R.tolist(), "t": self.t.tolist(), "source": self.source}


def place(vertices: Floats, cameras: Sequence[Camera], plane: Plane | None) -> Similarity:
    """Where the final mesh goes; `cameras` in the order in which the photos were sent."""
    rotation = upright(_up(cameras, plane), cameras[0].centre - (vertices.min(0) + vertices.max(0)) / 2)
    turned = vertices @ rotation.T
    low, high = turned.min(0), turned.max(0)
    scale = 1.0 / max(float((high - low).max()), 1e-12)
    middle = (low + high) / 2
    return Similarity(scale, rotation, -scale * np.array([middle[0], low[1], middle[2]]), "none")


def upright(up: Floats, towards_viewer: Floats) -> Floats:
    """Rotation that takes `up` to +Y and, as far as that allows, `towards_viewer` to +Z."""
    forward = towards_viewer - (towards_viewer @ up) * up
    if np.linalg.norm(forward) < 1e-6 * max(float(np.linalg.norm(towards_viewer)), 1e-12):
        forward = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])  # seen from right above: any side may be the front
    forward = forward / np.linalg.norm(forward)
    return np.stack([np.cross(up, forward), up, forward])


def _up(cameras: Sequence[Camera], plane: Plane | None) -> Floats:
    photographer = cameras_up(cameras)
    if plane is not None and plane.normal @ photographer > np.cos(np.radians(MAX_PLANE_TILT_DEG)):
        return plane.normal
    return photographer
