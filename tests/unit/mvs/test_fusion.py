"""Only what several views agree on is kept, once, and turned to the cameras."""

import numpy as np

from services.mvs.consistency_kernels import agreement, camera_normals, fit_slopes, owned
from services.mvs.fusion import POINT, thinned, together, without_speckles
from services.mvs.views import Level, at_level, warp
from tests.unit.mvs.small_scene import MIDDLE, RADIUS, orbit, true_inverse_depth


def _maps(levels: list[Level]) -> np.ndarray:
    stack = []
    for level in levels:
        inverse = true_inverse_depth(level)
        gy, gx = np.gradient(inverse)
        stack.append(np.stack([inverse, gx, gy, np.full_like(inverse, 0.05)], axis=-1))
    return np.array(stack, np.float32)


def _warps(levels: list[Level]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([warp(levels[0], s) for s in levels[1:]]), np.array([warp(s, levels[0]) for s in levels[1:]])


def _sphere(level: Level) -> np.ndarray:
    y, x = np.mgrid[0 : level.height, 0 : level.width]
    return np.hypot(x - level.width / 2, y - level.height / 2) < 30


def test_what_two_others_see_is_kept(tmp_path) -> None:
    """True maps of three neighbouring views agree nearly everywhere on the sphere, and averaging moves nothing."""
    levels = [at_level(view, 1.0) for view in orbit(18, tmp_path)[:3]]
    maps, (there, back) = _maps(levels), _warps(levels)
    merged, count = agreement(maps[0], maps[1:], there, back, 0.6, 2, 1.0, 0.01)
    sphere = _sphere(levels[0])
    assert (count[sphere] == 2).mean() > 0.85
    kept = sphere & (merged > 0)
    np.testing.assert_allclose(merged[kept], maps[0][kept][:, 0], rtol=2e-3)


def test_what_nobody_else_sees_is_dropped(tmp_path) -> None:
    """A patch three percent too near is in no other map."""
    levels = [at_level(view, 1.0) for view in orbit(18, tmp_path)[:3]]
    maps, (there, back) = _maps(levels), _warps(levels)
    maps[0][60:80, 90:110, 0] *= 1.03
    merged, _ = agreement(maps[0], maps[1:], there, back, 0.6, 2, 1.0, 0.01)
    assert (merged[60:80, 90:110] == 0).all()


def test_unsure_matches_are_dropped(tmp_path) -> None:
    """A cost above the limit keeps a pixel out, wherever it lies."""
    levels = [at_level(view, 1.0) for view in orbit(18, tmp_path)[:3]]
    maps, (there, back) = _maps(levels), _warps(levels)
    maps[0][..., 3] = 0.7
    merged, _ = agreement(maps[0], maps[1:], there, back, 0.6, 2, 1.0, 0.01)
    assert not merged.any()


def test_normals_are_those_of_the_surface(tmp_path) -> None:
    """Fitted slopes give the sphere's normals within two degrees (its curvature over five pixels), towards the camera."""
    level = at_level(orbit(18, tmp_path)[0], 1.0)
    inverse = true_inverse_depth(level).astype(np.float32)
    fitted = fit_slopes(inverse, 2, 0.01)
    rows, columns = np.nonzero(_sphere(level))
    normals = camera_normals(fitted, rows, columns, level.K) @ level.view.R
    from services.mvs.views import back_project

    points = back_project(level, columns.astype(float), rows.astype(float), inverse[rows, columns].astype(float))
    cosine = (normals * (points - MIDDLE) / RADIUS).sum(axis=1)
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 2.0


def test_what_one_view_leaves_the_other_delivers(tmp_path) -> None:
    """Of two views, each leaves what the other sees better, and nothing falls between them."""
    levels = [at_level(view, 1.0) for view in orbit(12, tmp_path)[:2]]
    fitted = [fit_slopes(true_inverse_depth(level).astype(np.float32), 2, 0.01) for level in levels]
    intrinsics = [np.array([k.K[0, 0], k.K[1, 1], k.K[0, 2], k.K[1, 2]]) for k in levels]
    mine = [
        owned(fitted[a], fitted[b][None], warp(levels[a], levels[b])[None], intrinsics[a], intrinsics[b][None], np.array([b < a]), 0.01)
        for a, b in ((0, 1), (1, 0))
    ]
    rows, columns = np.nonzero(_sphere(levels[0]) & ~mine[0])
    assert 0.1 < len(rows) / _sphere(levels[0]).sum() < 0.7
    numbers, w = warp(levels[0], levels[1]), fitted[0][rows, columns, 0]
    q = numbers[:9].reshape(3, 3) @ np.stack([columns, rows, np.ones_like(rows)]) + numbers[9:, None] * w
    assert mine[1][np.round(q[1] / q[2]).astype(int), np.round(q[0] / q[2]).astype(int)].mean() > 0.98


def test_speckles_go_and_surfaces_stay() -> None:
    """A patch of nine pixels at another depth is removed, the surface around it is not."""
    inverse = np.full((60, 80), 0.5, np.float32)
    inverse[20:23, 30:33] = 0.8
    cleaned = without_speckles(inverse, 50, 0.01)
    assert not cleaned[20:23, 30:33].any()
    assert (cleaned > 0).sum() == 60 * 80 - 9


def test_a_cloud_is_capped() -> None:
    """Beyond the cap a cloud is thinned: the same points for the same seed, whatever pieces it comes in."""
    cloud = np.zeros(100, POINT)
    cloud["point"] = np.arange(300).reshape(100, 3)
    whole, pieces = thinned([cloud], 50, 3), thinned([cloud[:7], cloud[:0], cloud[7:90], cloud[90:]], 50, 3)
    assert len(together(whole)) == 50
    np.testing.assert_array_equal(together(whole), together(pieces))


def test_no_views_give_an_empty_cloud() -> None:
    """So that the stage can say NO_SURFACE instead of failing on it."""
    assert len(together(thinned([], 50, 3))) == 0
