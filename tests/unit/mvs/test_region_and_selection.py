"""What the cameras orbit is found, and what they do not orbit is not; neighbours are those that see the same from elsewhere."""

from pathlib import Path

import numpy as np

from services.mvs.depth_maps import Scene
from services.mvs.params import MvsParams
from services.mvs.region import find_region, focus_of, support_plane
from services.mvs.rounds import CHECKS_OF_WHOLE_FRAMES, build_scene
from services.mvs.seeds import sparse_planes
from services.mvs.view_selection import angle_weight, select_views
from services.mvs.views import View, at_level, load_views
from tests.unit.mvs.small_scene import MIDDLE, RADIUS, orbit, true_inverse_depth


def _cloud(seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    directions = rng.normal(0, 1, (400, 3))
    sphere = MIDDLE + RADIUS * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return np.vstack([sphere[sphere[:, 2] > 0.02], np.column_stack([rng.uniform(-1, 1, (600, 2)), np.zeros(600)])])


def test_an_orbit_has_a_focus_a_plane_and_a_box(tmp_path: Path) -> None:
    """The box holds the whole sphere and little more; the plane is the ground."""
    region = find_region(orbit(12, tmp_path), _cloud(), 1)
    assert region.orbit and region.plane is not None and region.box is not None
    np.testing.assert_allclose(region.plane.normal, [0, 0, 1], atol=0.02)
    assert abs(region.plane.offset) < 0.02
    assert region.box.contains(_cloud(2)[:300]).all()
    assert (region.box.half < 0.75).all()


def test_a_facade_is_no_orbit(tmp_path: Path) -> None:
    """Cameras that walk along a wall look at nothing in common: every pixel counts."""
    views = []
    for i, view in enumerate(orbit(8, tmp_path)):
        R = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        views.append(View(view.name, view.image, None, R, -R @ np.array([0.8 * i, -4.0, 1.0]), view.K, view.width, view.height))
    region = find_region(views, _cloud(), 1)
    assert not region.orbit and region.box is None


def test_a_short_arc_is_no_orbit(tmp_path: Path) -> None:
    """Photos from one side show a scene, at one height or at several."""
    assert not find_region(orbit(8, tmp_path, arc_deg=60), _cloud(), 1).orbit
    assert not find_region(orbit(24, tmp_path, arc_deg=80, elevations_deg=(-6.0, 8.0, 20.0)), _cloud(), 1).orbit


def test_a_high_ring_is_an_orbit(tmp_path: Path) -> None:
    """Cameras high above all look the same way down, and go around all the same."""
    assert find_region(orbit(12, tmp_path, elevations_deg=(60.0,)), _cloud(), 1).orbit


def test_the_focus_is_where_the_axes_meet(tmp_path: Path) -> None:
    """Every test camera looks at the sphere's middle."""
    point, miss = focus_of(orbit(9, tmp_path))
    np.testing.assert_allclose(point, MIDDLE, atol=1e-9)
    assert miss < 1e-9


def test_a_floating_object_has_no_support_plane() -> None:
    """A sphere alone offers no plane with nearly nothing below it."""
    directions = np.random.default_rng(4).normal(0, 1, (500, 3))
    assert support_plane(directions / np.linalg.norm(directions, axis=1, keepdims=True), np.array([0, 0, 1.0]), 0.02, 1) is None


def test_rays_that_miss_the_box_are_left_out(scene: Scene) -> None:
    """Every pixel of the sphere meets the region; a corner of the photo does not."""
    assert scene.region.box is not None
    level = scene.level(0, 1)
    met = scene.region.box.met_by(level)
    y, x = np.mgrid[0 : level.height, 0 : level.width]
    assert met[np.hypot(x - level.width / 2, y - level.height / 2) < 46].all()
    assert not met[0, 0] and not met[-1, 0]


def test_neighbours_on_the_orbit_are_chosen(sfm_folder: Path) -> None:
    """The two nearest cameras come first, and no camera is its own source."""
    selections = select_views(sfm_folder, load_views(sfm_folder), 4, 6, 2.0)
    for i, selection in enumerate(selections):
        assert set(selection.sources[:2]) == {(i - 1) % 10, (i + 1) % 10}
        assert i not in selection.checks
        assert len(selection.sources) <= 4 <= len(selection.checks)
        assert 0 < selection.near < 1.9 and selection.far > 2.4


def test_whole_frames_ask_fewer_photos(sfm_folder: Path, tmp_path: Path) -> None:
    """Where every pixel counts, fewer depth maps are asked whether they agree, but no fewer than it is matched with."""
    scene = build_scene(sfm_folder, tmp_path, MvsParams(region="off"))
    assert all(4 <= len(selection.checks) <= CHECKS_OF_WHOLE_FRAMES for selection in scene.selections)


def test_angles_of_an_orbit_of_24_still_count() -> None:
    """Neighbours 28 degrees apart keep most of their weight, nearly coincident ones do not."""
    assert angle_weight(28.0) > 0.7 > 0.3 > angle_weight(2.0)


def test_seeds_follow_the_sparse_points(tmp_path: Path) -> None:
    """On the ground, interpolation between sparse points is exact: inverse depth is linear over a plane's image."""
    level = at_level(orbit(12, tmp_path)[0], 2.0)
    ground = np.column_stack([np.random.default_rng(3).uniform(-1.5, 1.5, (200, 2)), np.zeros(200)])
    planes = sparse_planes(level, ground)
    truth = true_inverse_depth(level)
    y, x = np.mgrid[0 : level.height, 0 : level.width]
    compare = (planes[..., 0] > 0) & (np.hypot(x - level.width / 2, y - level.height / 2) > 28)
    assert compare.sum() > 500
    np.testing.assert_allclose(planes[compare, 0], truth[compare], rtol=1e-4)
