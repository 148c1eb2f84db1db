"""Which photo a texel takes its colour from: a sheet on the ground, seen by two cameras that differ in one respect."""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import pytest

from services.postprocess.capture import Camera
from services.postprocess.surface import Mesh
from services.postprocess.texturing import Candidates, collect_views
from services.postprocess.visibility import RayCaster
from tests.unit.postprocess.capture import look_at

SPACING = 0.002
NOISE = np.random.default_rng(1).integers(0, 255, (480, 640, 3)).astype(np.uint8)


@dataclass(frozen=True)
class Shot(Camera):
    """A camera with its photo and mask in memory."""

    pixels: np.ndarray = field(default_factory=lambda: NOISE)
    inside: np.ndarray | None = None

    def photo(self) -> np.ndarray:
        """As given, at this camera's size."""
        return cv2.resize(self.pixels, (self.width, self.height), interpolation=cv2.INTER_AREA)

    def object_mask(self) -> np.ndarray | None:
        """As given."""
        return self.inside

    def scaled_to(self, longest_px: int) -> Camera:
        """Itself: these photos are small."""
        return self


def shot(x: float, height: float) -> Shot:
    """From above the sheet's middle, `x` to the side, looking at the middle."""
    centre = np.array([x, 1e-3, height])
    R = look_at(centre, np.zeros(3))
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    return Shot("a", None, None, R, -R @ centre, K, 640, 480)  # type: ignore[arg-type]


def seen(*shots: Shot, roof: bool = False) -> Candidates:
    """The candidates of a point in the sheet's middle; `roof`: a second sheet hides it from straight above."""
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    mesh = Mesh(np.vstack([corners, corners * 0.1 + (0, 0, 0.3)]), np.vstack([faces, faces + 4])) if roof else Mesh(corners, faces)
    up = np.array([[0, 0, 1]], np.float32)
    return collect_views(np.zeros((1, 3), np.float32), up, np.zeros(3), list(shots), RayCaster(mesh), 2, SPACING)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (shot(0, 2), shot(2, 1.2)),  # straight on, against aslant
        (shot(0.3, 1.2), shot(0.3, 2.4)),  # near, against far
        (shot(0.3, 2), replace(shot(0.3, 2), pixels=cv2.GaussianBlur(NOISE, (0, 0), 3))),  # sharp, against blurred
        (
            shot(0.3, 2),
            replace(shot(0.3, 2), inside=np.arange(640)[None].repeat(480, 0) > 316),
        ),  # amid the object, against beside its outline
    ],
)
def test_the_better_photo_comes_first(better: Shot, worse: Shot) -> None:
    """By angle, resolution, sharpness and distance to the mask's border, wherever it stands in the list."""
    for shots, first in (((better, worse), 0), ((worse, better), 1)):
        found = seen(*shots)
        assert found.views[0, 0] == first
        assert found.scores[0, 0] > 1.15 * found.scores[0, 1]


def test_a_hidden_point_takes_no_colour() -> None:
    """What stands in front of a point in one photo hides it there, and there alone."""
    found = seen(shot(0, 2), shot(2, 1.5), roof=True)
    assert found.scores[0, 0] > 0 and found.views[0, 0] == 1
    assert found.scores[0, 1] == 0
