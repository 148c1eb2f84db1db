"""PatchMatch finds the depth that the photos were made with."""

import numpy as np

from services.mvs.depth_maps import (
    _LOST_COST,
    Scene,
    _search_again,
    _stereo,
    coarsest_map,
    expected_effort,
    first_active,
    geometric_map,
    photometric_map,
)
from services.mvs.patchmatch_kernels import MIN_DEVIATION, enlarge_planes, exchange_planes, rescore_planes
from services.mvs.refinement_kernels import refine_planes
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
    """Half of the sphere's pixels are within 0.1 % of the true depth (an eighth of a pixel here; the
    sphere bends by as much within a window), nine in ten within 0.5 %.
    """
    for i in range(len(scene.views)):
        coarsest_map(scene, i)
        photometric_map(scene, i)
    geometric_map(scene, 3)
    inner = _inner_sphere(scene, 3)
    found, truth = scene.load("final", 3)[..., 0][inner], true_inverse_depth(scene.level(3, 1))[inner]
    error = np.abs(found / truth - 1)
    assert np.median(error) < 0.001
    assert np.percentile(error, 90) < 0.005


def test_refinement_finds_the_true_depth_from_half_a_pixel_away(scene: Scene) -> None:
    """Planes 0.4 % too near, with slopes of nothing in particular, end within 0.1 % of it; their costs fall."""
    inner, planes = _inner_sphere(scene, 0), _true_planes(scene, 0)
    truth = planes[..., 0].copy()
    planes[..., 0] *= 1.004
    planes[..., 1:3] *= 0.9
    stereo = _stereo(scene, 0, 1, first_active(scene, 0, 1), None)
    best = np.zeros((*inner.shape, 2), np.uint8)
    rescore_planes(stereo, planes, best, 2, 0.0)
    before = planes.copy()
    refine_planes(stereo, planes, best, 2, 3, -1.0, MIN_DEVIATION)
    error = np.abs(planes[..., 0] / truth - 1)[inner]
    assert np.median(error) < 0.001
    assert np.median(planes[inner, 3]) < 0.5 * np.median(before[inner, 3])


def test_settled_planes_and_inactive_pixels_stay_as_they_are(scene: Scene) -> None:
    """Refinement touches neither what costs less than `settled` nor what is not active."""
    planes = _true_planes(scene, 0)
    stereo = _stereo(scene, 0, 1, first_active(scene, 0, 1), None)
    before = planes.copy()
    best = np.zeros((*planes.shape[:2], 2), np.uint8)
    refine_planes(stereo, planes, best, 2, 1, 0.05, MIN_DEVIATION)
    np.testing.assert_array_equal(planes, before)
    refine_planes(stereo._replace(active=np.zeros_like(stereo.active)), planes, best, 2, 1, -1.0, MIN_DEVIATION)
    np.testing.assert_array_equal(planes, before)


def test_blank_pixels_beside_an_outline_have_no_depth(scene: Scene) -> None:
    """Their windows hold a part of the object, which would fringe it with background."""
    inner, planes = _inner_sphere(scene, 0), _true_planes(scene, 0)
    stereo = _stereo(scene, 0, 1, first_active(scene, 0, 1), None)
    outline = planes.shape[1] // 2
    grey = stereo.grey.copy()
    grey[:, outline:] = 255
    refine_planes(stereo._replace(grey=grey), planes, np.zeros((*inner.shape, 2), np.uint8), 2, 1, -1.0, MIN_DEVIATION)
    assert not planes[:, outline : outline + 5, 0][inner[:, outline : outline + 5]].any()
    assert planes[:, outline - 10 : outline - 5, 0][inner[:, outline - 10 : outline - 5]].all()


def test_photos_hand_each_other_their_planes(scene: Scene) -> None:
    """From nothing, a photo has the planes that its neighbours found, at depth and slope of its own."""
    inner, truth = _inner_sphere(scene, 0), _true_planes(scene, 0)
    others = np.stack([_true_planes(scene, k) for k in scene.selections[0].sources])
    stereo = _stereo(scene, 0, 1, first_active(scene, 0, 1), others)
    planes, best = np.zeros_like(truth), np.zeros((*inner.shape, 2), np.uint8)
    exchange_planes(stereo, planes, best, 2, 0.0, 0.1)
    found = inner & (planes[..., 0] > 0)
    assert found[inner].mean() > 0.7
    assert np.percentile(np.abs(planes[found][:, 0] / truth[found][:, 0] - 1), 90) < 0.002
    assert np.median(np.abs(planes[found][:, 1:3] - truth[found][:, 1:3])) < 0.1 * np.median(np.abs(truth[found][:, 1:3]))


def test_a_thin_part_that_a_level_lost_is_found_again(scene: Scene) -> None:
    """A bar nine pixels wide that a coarser level took for what lies behind it: its planes come back, none that matched changes."""
    inner, truth = _inner_sphere(scene, 0), _true_planes(scene, 0)
    bar = inner & (np.abs(np.arange(inner.shape[1]) - inner.shape[1] / 2) < 5)
    stereo = _stereo(scene, 0, 1, first_active(scene, 0, 1), None)
    planes, best = truth.copy(), np.zeros((*inner.shape, 2), np.uint8)
    planes[bar] *= np.array([0.8, 0, 0, 0], np.float32)
    rescore_planes(stereo, planes, best, 2, 0.0)
    before, lost = planes.copy(), stereo.active & (planes[..., 0] > 0) & (planes[..., 3] > _LOST_COST)
    assert lost[bar].mean() > 0.7
    _search_again(scene, 0, stereo, planes, best)
    assert np.percentile(np.abs(planes[..., 0] / truth[..., 0] - 1)[bar & lost], 95) < 0.002
    assert np.median(planes[bar & lost, 3]) < 0.1 * np.median(before[bar & lost, 3])
    np.testing.assert_array_equal(planes[~lost], before[~lost])


def test_nothing_is_searched_where_nothing_is_lost(scene: Scene) -> None:
    """Planes that match stay, whatever chance would have tried."""
    planes, best = _true_planes(scene, 0), np.zeros((144, 192, 2), np.uint8)
    planes[..., 3] = _LOST_COST
    before = planes.copy()
    _search_again(scene, 0, _stereo(scene, 0, 1, first_active(scene, 0, 1), None), planes, best)
    np.testing.assert_array_equal(planes, before)


def test_pixels_that_match_badly_foretell_the_effort(scene: Scene) -> None:
    """Every pixel with a plane counts; one that matches badly many times."""
    planes = np.zeros((20, 30, 4), np.float32)
    planes[:10, :, 0] = 1.0
    planes[10:, :, 3] = 2.0  # no plane: nothing to look for
    np.save(scene.path("coarsest", 0), planes)
    settled = expected_effort(scene, 0)
    planes[:5, :, 3] = 0.5
    np.save(scene.path("coarsest", 0), planes)
    assert settled == 301 and expected_effort(scene, 0) == settled + 8 * 150
