"""Straightening moves pixels to where a pinhole would have seen them, and leaves alone what is there already."""

import cv2
import numpy as np
import pytest

from services.sfm.colmap import pycolmap
from services.sfm.straight_camera import BORDER_PX, Warp, straight_camera, warp_of


def lens(k: float, width: int = 640, height: int = 480, cx: float = 320.0, cy: float = 240.0) -> pycolmap.Camera:
    return pycolmap.Camera(model="SIMPLE_RADIAL", width=width, height=height, params=[0.9 * width, cx, cy, k])


def noise(width: int = 640, height: int = 480) -> np.ndarray:
    """Detail up to what a lens resolves."""
    grey = np.random.default_rng(0).normal(128, 90, (height, width))
    return np.clip(cv2.GaussianBlur(grey, (0, 0), 0.8), 0, 255).astype(np.uint8)


def sharpness(image: np.ndarray) -> float:
    return float(np.abs(cv2.Laplacian(image.astype(np.float32), cv2.CV_32F)).mean())


@pytest.mark.parametrize(("k", "cx"), [(0.0, 320.0), (0.0, 301.3), (0.0004, 320.0), (-0.0004, 320.0)])
def test_what_the_lens_does_not_move_is_not_touched(k: float, cx: float) -> None:
    """Size, focal length and principal point stay, wherever it is, and so does every pixel."""
    warp, image = warp_of(lens(k, cx=cx), 640), noise()
    assert warp.leaves(640, 480)
    assert list(warp.camera.params) == [576.0, 576.0, cx, 240.0]
    np.testing.assert_array_equal(warp.apply(image), image)


@pytest.mark.parametrize("k", [-0.01, -0.004, 0.004, 0.01])
def test_a_lens_with_little_distortion_keeps_the_size_and_the_detail(k: float) -> None:
    """Fine noise keeps 85 % of its Laplacian where pixels move by any fraction, and all of it near the centre, where none moves."""
    warp, image = warp_of(lens(k), 640), noise()
    straight = warp.apply(image)
    assert (warp.camera.width, warp.camera.height) == (640, 480) and not warp.leaves(640, 480)
    assert sharpness(straight) > 0.85 * sharpness(image)
    centre = (slice(210, 270), slice(290, 350))
    assert sharpness(straight[centre]) > 0.99 * sharpness(image[centre])


@pytest.mark.parametrize("k", [-0.3, -0.1, -0.03, 0.03, 0.1, 0.3])
def test_a_lens_with_much_distortion_loses_or_gains_whole_pixels(k: float) -> None:
    """The focal length stays, the pixel grid too, and all that is seen lies in the photo but for the pixels allowed at its border."""
    warp = warp_of(lens(k), 1600)
    camera = warp.camera
    assert camera.focal_length_x == camera.focal_length_y == 576.0
    assert camera.principal_point_x % 1 == 0 and camera.principal_point_y % 1 == 0
    assert (camera.width > 640) == (k < 0)
    assert warp.maps is not None
    x, y = warp.maps
    assert x.min() >= -BORDER_PX and x.max() <= 639 + BORDER_PX and y.min() >= -BORDER_PX and y.max() <= 479 + BORDER_PX


def test_straight_lines_are_straight() -> None:
    """A line drawn through the lens comes out on the line that a pinhole sees: within a twentieth of a pixel."""
    camera = lens(-0.15)
    warp = warp_of(camera, 1600)
    x, y = np.meshgrid(np.arange(640) + 0.5, np.arange(480) + 0.5)
    rays = camera.cam_from_img(np.stack([x.ravel(), y.ravel()], axis=1))
    photo = np.round(250 * np.exp(-0.5 * ((rays[:, 1] - 0.3) * 576 / 2) ** 2)).astype(np.uint8).reshape(480, 640)
    straight = warp.apply(photo).astype(np.float64)
    columns = straight[:, 60 : warp.camera.width - 60]
    rows = (columns * (np.arange(len(columns))[:, None] + 0.5)).sum(axis=0) / columns.sum(axis=0)
    assert np.abs(rows - (0.3 * 576 + warp.camera.principal_point_y)).max() < 0.05


def test_large_photos_are_reduced_to_the_limit() -> None:
    """K is in pixels of the reduced photo; one without distortion is reduced and not resampled again."""
    warp = warp_of(lens(0.0, 1600, 1200, 803.0, 590.0), 800)
    assert (warp.reduced_size, warp.maps) == ((800, 600), None)
    assert list(warp.camera.params) == pytest.approx([720.0, 720.0, 401.5, 295.0])
    assert warp.apply(noise(1600, 1200)).shape == (600, 800)
    bent = warp_of(lens(-0.2, 1600, 1200, 800.0, 600.0), 800)
    assert 780 <= max(bent.camera.width, bent.camera.height) <= 800


def test_what_is_no_lens_keeps_its_size() -> None:
    """A distortion found on too little would cut the photo to pieces, or make it immense."""
    assert straight_camera(lens(9.0)).width == 640
    wide = pycolmap.Camera(model="OPENCV_FISHEYE", width=640, height=480, params=[200.0, 200.0, 320.0, 240.0, 0.0, 0.0, 0.0, 0.0])
    assert isinstance(warp_of(wide, 4000), Warp) and warp_of(wide, 4000).camera.width <= 1280
