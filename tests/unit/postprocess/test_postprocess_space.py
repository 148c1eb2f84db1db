"""What depth maps say about empty space, and the surface that follows from it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import open3d as o3d
import pytest

from services.postprocess.capture import Camera, Cloud
from services.postprocess.carving import carved_border
from services.postprocess.contradiction import looked_through
from services.postprocess.free_space import FreeSpace, read_depth_map
from services.postprocess.isolation import point_spacing, without_strays
from services.postprocess.support_plane import Plane
from services.postprocess.surface import Mesh
from services.postprocess.visibility import RayCaster
from tests.unit.postprocess.capture import look_at, orbit_centres, plate

GROUND = Plane(np.array([0, 0, 1.0]), 0.0, 0.001)


def ball_on_ground() -> Mesh:
    """A ball of radius 0.3 that touches the ground at the origin."""
    both = o3d.geometry.TriangleMesh.create_sphere(0.3, 40).translate((0, 0, 0.3)) + plate(4.0)
    return Mesh.of_legacy(both)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> FreeSpace:
    """Ten cameras around the ball, and their exact depth maps in the layout of mvs."""
    folder = tmp_path_factory.mktemp("depth")
    caster, cameras = RayCaster(ball_on_ground()), []
    K = np.array([[260.0, 0, 120], [0, 260, 90], [0, 0, 1]])
    for i, centre in enumerate(orbit_centres(10)):
        R = look_at(centre, np.array([0, 0, 0.3]))
        camera = Camera(f"{i}.jpg", Path(f"images/{i}.png"), None, R, -R @ centre, K, 240, 180)
        inverse = 1 / caster.depth(camera)
        low, high = float(inverse[inverse > 0].min()), float(inverse.max())
        relative = np.where(inverse > 0, (inverse - low) / (high - low), np.nan).astype(np.float16)
        np.savez(folder / f"{i}.npz", inverse_depth=relative, range=np.array([low, high]), K=K)
        cameras.append(camera)
    return FreeSpace(cameras, folder)


def upper_half() -> Cloud:
    """The ball's upper half: what stereo found of it."""
    ball = o3d.geometry.TriangleMesh.create_sphere(1.0, 60)
    normals = np.asarray(ball.vertices)
    points = 0.3 * normals + (0, 0, 0.3)
    return Cloud(points, normals, np.full(points.shape, 100, np.uint8)).select(points[:, 2] > 0.3)


def test_a_place_that_cameras_looked_past_is_empty(space: FreeSpace) -> None:
    """Beside the ball is empty; its surface, its inside and what is under it are not."""
    points = np.array([[0.6, 0, 0.1], [0.3, 0, 0.3], [0, 0, 0.3], [0.05, 0, 0.01]])
    np.testing.assert_array_equal(space.empty(points, 0.02), [True, False, False, False])


def test_a_depth_map_is_read_to_the_bit(space: FreeSpace) -> None:
    """Looked up by its bits, a float16 means what it says; nothing seen is zero."""
    path = space.folder / "3.npz"
    stored, found = np.load(path), read_depth_map(path)
    low, high = (float(value) for value in stored["range"])
    expected = np.nan_to_num(low + stored["inverse_depth"].astype(np.float32) * (high - low), nan=0.0)
    np.testing.assert_array_equal(found.levels[found.stored], expected)


def test_the_distance_between_points_is_told() -> None:
    """Of a square grid, to a tenth of it in a cell of several points, wherever it lies; strays far away do not matter."""
    x, y = np.meshgrid(np.arange(400) * 0.01, np.arange(400) * 0.01)
    points = np.column_stack([x.ravel() - 7, y.ravel() + 3, np.zeros(x.size)])
    points = np.vstack([points, [[500.0, -900, 40]]])
    assert point_spacing(Cloud(points, points, np.zeros(points.shape, np.uint8))) == pytest.approx(0.01, rel=0.1)


def test_surface_that_photos_look_through_is_told_by_its_area(space: FreeSpace) -> None:
    """The ball that the depth maps saw is contradicted by none; with as large a ball beside it, that one is: half of the area."""
    seen = Mesh.of_legacy(o3d.geometry.TriangleMesh.create_sphere(0.3, 40).translate((0, 0, 0.3)))
    moved = Mesh(seen.vertices + np.array([0.8, 0, 0]), seen.faces)
    both = Mesh(np.concatenate([seen.vertices, moved.vertices]), np.concatenate([seen.faces, moved.faces + len(seen.vertices)]))
    assert looked_through(seen, space) < 0.03  # rims, in maps as coarse as these
    assert looked_through(both, space) == pytest.approx(0.5, abs=0.1)  # from some cameras the one is behind the other


def test_floaters_go_and_the_surface_stays(space: FreeSpace) -> None:
    """Points in front of what the cameras saw are dropped, those on it are not."""
    surface = upper_half()
    floaters = Cloud(np.array([[0.5, 0.1, 0.2], [0, -0.6, 0.15]]), np.tile([0.0, 0, 1], (2, 1)), np.zeros((2, 3), np.uint8))
    both = Cloud(*(np.concatenate(pair) for pair in zip(vars(surface).values(), vars(floaters).values(), strict=True)))
    kept = space.without_floaters(both, 0.02)  # two pixels of these small maps: near the outline a pixel's depth is its middle's
    assert len(kept) > 0.97 * len(surface)
    assert np.linalg.norm(kept.points - (0, 0, 0.3), axis=1).max() < 0.31


def test_without_depth_maps_nothing_is_known_to_be_empty(space: FreeSpace) -> None:
    """Every test of emptiness answers no."""
    blind = replace(space, folder=Path("nowhere"))
    assert not blind.empty(np.array([[0.6, 0, 0.1]]), 0.02).any()
    assert len(blind.without_floaters(upper_half(), 0.01)) == len(upper_half())


def test_the_border_of_carved_space_closes_what_stereo_missed(space: FreeSpace) -> None:
    """Below the found half there are points, facing away from the solid, outside the ball by little and never under the ground."""
    border = carved_border(upper_half(), GROUND, space)
    distance = np.linalg.norm(border.points - (0, 0, 0.3), axis=1)
    assert len(border) > 50
    assert border.points[:, 2].max() < 0.33
    assert border.points[:, 2].min() > -0.01
    assert np.percentile(distance, 95) < 0.36
    np.testing.assert_allclose(np.linalg.norm(border.normals, axis=1), 1, atol=1e-6)
    assert (border.normals[:, 2] < 0.3).mean() > 0.9


def test_points_far_from_their_neighbours_are_strays() -> None:
    """A point on its own goes; an even surface keeps nearly all of its points."""
    surface = upper_half()
    lonely = Cloud(np.array([[1.0, 1, 1]]), np.array([[0, 0, 1.0]]), np.zeros((1, 3), np.uint8))
    both = Cloud(*(np.concatenate(pair) for pair in zip(vars(surface).values(), vars(lonely).values(), strict=True)))
    kept = without_strays(both)
    assert len(kept) > 0.95 * len(surface)
    assert kept.points.max() < 0.7
