"""PatchMatch finds the depth that the photos were made with."""

import numpy as np

from services.mvs.depth_maps import Scene, _stereo, first_active, geometric_map, photometric_map
from services.mvs.patchmatch_kernels import enlarge_planes, rescore_planes
from services.mvs.views import at_level, warp
from tests.unit.mvs.small_scene import orbit, true_inverse_depth


def _true_planes(scene: Scene, index: int) -> np.ndarray:
    inverse = true_inverse_depth(scene.level(index, 1))
    gy, gx = np.gradient(inverse)
    return np.stack([inverse, gx, gy, np.zeros_like(inverse)], axis=-1).astype(np.float32)


def _inner_sphere(scene: Scene, index: int) -> np.ndarray:
    """Pixels well inside the sphere's outline, where finite differences are slopes."""
    level = scene.level(index, 1)
    y, x = np.mgrid[0 : level.height, 0 : level.width]
    return np.hypot(x - level.width / 2, y - level.height / 2) < 36


def test_a_warp_sends_a_pixel_where_its_point_projects(tmp_path) -> None:
    """A·p + b·w is the projection of the point at inverse depth w, to rounding."""
    one, other = (at_level(view, 1.0) for view in orbit(12, tmp_path)[:2])
    w, p = 0.4, np.array([100.0, 70.0, 1.0])
    world = one.view.R.T @ (np.linalg.inv(one.K) @ p / w - one.view.t)
    expected = other.K @ (other.view.R @ world + other.view.t) * w
    numbers = warp(one, other)
    actual = numbers[:9].reshape(3, 3) @ p + numbers[9:] * w
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_levels_keep_pixel_centres(tmp_path) -> None:
    """The centre of the first pixel is (0.5, 0.5) in pixels and (0, 0) in index coordinates, at every level."""
    view = orbit(3, tmp_path)[0]
    full, half = at_level(view, 1.0), at_level(view, 2.0)
    point = np.array([0.1, -0.05, 1.0])
    x, y, _ = full.K @ point
    np.testing.assert_allclose(half.K @ point, [(x + 0.5) / 2 - 0.5, (y + 0.5) / 2 - 0.5, 1.0], rtol=1e-12)


def test_true_planes_cost_nothing_and_wrong_ones_do(scene: Scene) -> None:
    """NCC under the true homography is near 1; a tenth of a depth away it is not."""
    inner, planes = _inner_sphere(scene, 0), _true_planes(scene, 0)
    stereo = _stereo(scene, 0, 1, first_active(scene, 0, 1), None)
    best = np.zeros((*inner.shape, 2), np.uint8)
    rescore_planes(stereo, planes, best, 2, 0.0)
    wrong = _true_planes(scene, 0)
    wrong[..., 0] *= 1.1
    rescore_planes(stereo, wrong, best, 2, 0.0)
    assert np.median(planes[inner, 3]) < 0.03
    assert np.median(wrong[inner, 3]) > 0.3


def test_enlarged_planes_keep_their_plane(scene: Scene) -> None:
    """A linear inverse depth stays the same function of the image at the next finer level."""
    y, x = np.mgrid[0:30, 0:40].astype(np.float32)
    coarse = np.stack([0.4 + 0.001 * x - 0.002 * y, np.full_like(x, 0.001), np.full_like(x, -0.002), np.zeros_like(x)], axis=-1)
    finer, _ = enlarge_planes(coarse, np.zeros((30, 40, 2), np.uint8), 60, 80)
    fine_y, fine_x = np.mgrid[0:60, 0:80]
    expected = 0.4 + 0.001 * ((fine_x + 0.5) / 2 - 0.5) - 0.002 * ((fine_y + 0.5) / 2 - 0.5)
    np.testing.assert_allclose(finer[..., 0], expected, rtol=1e-5)
    np.testing.assert_allclose(finer[..., 1], 0.0005, rtol=1e-5)


def test_depth_maps_meet_the_truth(scene: Scene) -> None:
    """Half of the sphere's pixels are within 0.2 % of the true depth (a quarter of a pixel here), nine in ten within 1 %."""
    for i in range(len(scene.views)):
        photometric_map(scene, i)
    geometric_map(scene, 3)
    inner = _inner_sphere(scene, 3)
    found, truth = scene.load("final", 3)[..., 0][inner], true_inverse_depth(scene.level(3, 1))[inner]
    error = np.abs(found / truth - 1)
    assert np.median(error) < 0.002
    assert np.percentile(error, 90) < 0.01
