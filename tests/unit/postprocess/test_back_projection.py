"""Sharpening of a texture against its photos, on a flat sheet whose fine stripes are known."""

from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from services.postprocess.back_projection import sharpened
from services.postprocess.back_projection_kernels import Sight, _project
from services.postprocess.capture import Camera
from services.postprocess.colour import to_bytes
from services.postprocess.free_space_kernels import _seen_at
from services.postprocess.texturing import Candidates

SIDE = 96  # texels along the sheet, which is one unit wide
PIXELS = 64
PERIOD = 0.045  # of the stripes: three pixels
GAINS = np.array([[1.1], [0.9], [1.02]]) * np.ones(3)


def stripes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Linear grey of the sheet."""
    return np.asarray(0.3 + 0.15 * np.sin(2 * np.pi * (x + 0.3 * y) / PERIOD))


@dataclass(frozen=True)
class Sheet(Camera):
    """A camera that looks straight down on the sheet; `gain` is what its photo must be multiplied with."""

    gain: float = 1.0
    passer_by: bool = False

    def photo(self) -> np.ndarray:
        """Every pixel the mean over its square."""
        step = (np.arange(8 * PIXELS) + 0.5) / 8
        x, y = np.meshgrid(*((step - self.K[k, 2]) / self.K[k, k] * self.t[2] - self.t[k] for k in (0, 1)))
        grey = stripes(x, y).reshape(PIXELS, 8, PIXELS, 8).mean((1, 3)) / self.gain
        if self.passer_by:
            grey[20:30, 20:30] = 0.9
        return to_bytes(np.repeat(grey[..., None], 3, 2))


def sheet_camera(index: int, passer_by: bool = False) -> Sheet:
    """One of three, each a fraction of a pixel beside the other."""
    K = np.array([[PIXELS * 1.05, 0, PIXELS / 2 + 0.37 * index], [0, PIXELS * 1.05, PIXELS / 2 - 0.29 * index], [0, 0, 1]])
    return Sheet("a", None, None, np.eye(3), np.array([-0.5, -0.5, 1.0]), K, PIXELS, PIXELS, GAINS[index, 0], passer_by)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """The sheet's texels, z = 0, from the frame's origin."""
    x, y = np.meshgrid(*((np.arange(SIDE) + 0.5) / SIDE,) * 2)
    return np.stack([x.ravel(), y.ravel(), np.zeros(SIDE**2)], 1).astype(np.float32)


def seen_by_all(count: int) -> Candidates:
    """Three views at every point."""
    views = np.broadcast_to(np.arange(3, dtype=np.uint16), (count, 3)).copy()
    return Candidates(np.ones((count, 3), np.float32), views, np.zeros((count, 3, 3), np.uint16))


def blurred(points: np.ndarray) -> np.ndarray:
    """What sampling and blending leave of the stripes: half their contrast."""
    grey = 0.5 * (0.3 + stripes(points[:, 0], points[:, 1]))
    return np.repeat(grey[:, None], 3, 1).astype(np.float32)


def off_truth(colours: np.ndarray, points: np.ndarray, where: np.ndarray | slice = slice(None)) -> float:
    """RMS error."""
    return float(np.sqrt(((colours[:, 0] - stripes(points[:, 0], points[:, 1]))[where] ** 2).mean()))


def inner(points: np.ndarray) -> np.ndarray:
    """Away from the sheet's rim, where pixels are covered by halves."""
    return np.asarray((np.abs(points[:, :2] - 0.5) < 0.42).all(1))


def test_contrast_that_blending_took_comes_back(points: np.ndarray) -> None:
    """One step halves the error of stripes three pixels wide, whatever the photos' exposures."""
    soft = blurred(points)
    sharp = sharpened(soft, points, np.zeros(3), seen_by_all(len(points)), GAINS, [sheet_camera(i) for i in range(3)], PIXELS / SIDE)
    assert off_truth(sharp, points, inner(points)) < 0.5 * off_truth(soft, points, inner(points))


def test_someone_in_front_leaves_no_trace(points: np.ndarray) -> None:
    """What differs by more than half the brightness is not taken for detail."""
    cameras = [sheet_camera(i, passer_by=i == 1) for i in range(3)]
    sharp = sharpened(blurred(points), points, np.zeros(3), seen_by_all(len(points)), GAINS, cameras, PIXELS / SIDE)
    assert sharp.max() < 0.55


def test_unseen_texels_keep_their_colour(points: np.ndarray) -> None:
    """Without candidates nothing changes, nor with ones that lie beside a jump in depth."""
    soft = blurred(points)
    nothing = seen_by_all(len(points))
    nothing.scores[: len(points) // 2] = 0
    nothing.scores[len(points) // 2 :] = 1e-4
    np.testing.assert_array_equal(
        soft, sharpened(soft, points, np.zeros(3), nothing, GAINS, [sheet_camera(i) for i in range(3)], PIXELS / SIDE)
    )


def test_both_projections_are_the_same() -> None:
    """Sharpening and depth maps meet a point in one place: the formula is written twice, for the sake of numba's cache."""
    rng = np.random.default_rng(4)
    R, t, K = cv2.Rodrigues(rng.normal(0, 0.3, 3))[0], np.array([0.1, -0.2, 3.0]), np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
    nothing = np.zeros((1, 1), np.float32)
    for point in rng.normal(0, 0.5, (5, 3)):
        sight = Sight(0, R, t, K, GAINS[0], point[None], nothing, nothing, nothing.astype(np.uint16), 0.0)
        _, column, row = _seen_at(point, R, t, K)
        assert _project(sight, 0) == (column - 0.5, row - 0.5)
