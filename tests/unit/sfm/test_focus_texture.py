"""What the cameras walked around is told from its surroundings: mirrors and plain things are named, matt texture is not."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from services.sfm.focus_texture import focus_warnings, photo_focuses

SIZE, FOCAL = 1000, 1200.0
NAMES = [f"{i}.jpg" for i in range(12)]


@dataclass(frozen=True)
class Pose:
    """World → camera, as pycolmap.Rigid3d."""

    R: np.ndarray
    translation: np.ndarray

    @property
    def rotation(self) -> Any:
        return SimpleNamespace(matrix=lambda: self.R)

    def __mul__(self, point: np.ndarray) -> np.ndarray:
        return self.R @ point + self.translation


def pose(turn_deg: float) -> Pose:
    """A camera two metres from the origin that looks at it."""
    a = np.radians(turn_deg)
    forward = -np.array([np.cos(a), np.sin(a), 0.0])
    right = np.array([np.sin(a), -np.cos(a), 0.0])
    R = np.stack([right, np.cross(forward, right), forward])
    return Pose(R, -R @ (-2.0 * forward))


def _point(xy: np.ndarray, placed: bool) -> Any:
    return SimpleNamespace(xy=xy, has_point3D=lambda: placed)


class Model:
    """What is asked of pycolmap.Reconstruction. `inside`, `outside`: features per photo and the share that became points."""

    def __init__(self, inside: tuple[int, float], outside: tuple[int, float], arc_deg: float = 360.0) -> None:
        self._poses = [pose(arc_deg * i / len(NAMES)) for i in range(len(NAMES))]
        random = np.random.default_rng(0)
        near = SIZE / 2 + random.uniform(-70, 70, (inside[0], 2))
        far = np.stack([random.uniform(0, SIZE, outside[0]), random.uniform(0, 300, outside[0])], axis=1)
        placed = np.concatenate([np.arange(n) < share * n for n, share in (inside, outside)])
        self._points = [_point(xy, bool(kept)) for xy, kept in zip(np.vstack([near, far]), placed, strict=True)]

    def reg_image_ids(self) -> list[int]:
        return list(range(1, len(NAMES) + 1))

    def image(self, image_id: int) -> Any:
        return SimpleNamespace(cam_from_world=lambda: self._poses[image_id - 1], camera_id=1, points2D=self._points)

    def camera(self, camera_id: int) -> Any:
        def img_from_cam(points: np.ndarray) -> np.ndarray:
            return FOCAL * points[:, :2] / points[:, 2:] + SIZE / 2

        return SimpleNamespace(width=SIZE, height=SIZE, img_from_cam=img_from_cam)


@pytest.mark.parametrize(
    ("inside", "outside", "codes"),
    [
        ((200, 0.4), (500, 0.4), []),
        ((200, 0.2), (500, 0.4), []),
        ((200, 0.0), (500, 0.4), ["MIRROR_LIKE"]),
        ((2, 0.0), (800, 0.4), ["WEAK_TEXTURE"]),
        ((2, 0.0), (10, 0.4), []),
    ],
)
def test_texture_that_comes_to_nothing_is_told_from_none(inside: tuple[int, float], outside: tuple[int, float], codes: list[str]) -> None:
    """Beside the surroundings only: where nothing has texture, this says nothing."""
    assert [warning.code for warning in focus_warnings(cast(Any, Model(inside, outside)), NAMES)] == codes


def test_the_warning_names_the_photos_and_what_to_do() -> None:
    """A photographer knows which photos, and what to buy."""
    (warning,) = focus_warnings(cast(Any, Model((200, 0.0), (500, 0.4))), NAMES)
    assert "0.jpg, 1.jpg" in warning.message
    assert "spray" in warning.hint and "polaris" in warning.hint


def test_a_facade_has_no_focus() -> None:
    """Cameras that look the same way walk around nothing."""
    assert photo_focuses(cast(Any, Model((200, 0.0), (500, 0.4), arc_deg=40.0))) == []
