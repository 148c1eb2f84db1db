"""Surface that no point supports: how it is laid anew, and what photos of the ground know about the air."""

from pathlib import Path

import numpy as np
import open3d as o3d
import pytest

from services.postprocess.capture import Camera, Cloud, read_cameras
from services.postprocess.cleaning import is_watertight
from services.postprocess.folds import depth_behind, folded
from services.postprocess.isolation import Subject
from services.postprocess.membrane import laplacian, stretch_unsupported
from services.postprocess.seen_ground import SeenGround, find_seen_ground
from services.postprocess.support_plane import Plane
from services.postprocess.surface import Mesh
from tests.unit.postprocess.capture import Truth, write_capture

Array = np.ndarray


def nothing(points: Array) -> Array:
    return np.zeros(len(points), bool)


def ball(bulge: float = 0.0) -> Mesh:
    """The unit sphere; its cap below z = -0.6 stands out by up to `bulge`."""
    mesh = Mesh.of_legacy(o3d.geometry.TriangleMesh.create_sphere(1.0, 40))
    out = 1 + bulge * np.clip((-0.6 - mesh.vertices[:, 2]) / 0.4, 0, 1)
    return Mesh(mesh.vertices * out[:, None], mesh.faces)


def subject() -> Subject:
    """Points on the unit sphere above z = -0.6, nothing known below."""
    normals = np.random.default_rng(0).normal(size=(60_000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals[normals[:, 2] > -0.6]
    nowhere = Cloud(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3), np.uint8))
    return Subject(Cloud(normals, normals, np.zeros(normals.shape, np.uint8)), nowhere, None, True)


def test_a_bulge_over_a_gap_is_laid_flat() -> None:
    """Over a wide gap tension wins: hardly more than the flat lid over its rim is left; supported vertices stay where they are."""
    before = ball(bulge=0.4)
    after = stretch_unsupported(before, subject(), nothing)
    radius = np.linalg.norm(after.mesh.vertices, axis=1)
    np.testing.assert_array_equal(after.mesh.vertices[~after.invented], before.vertices[~after.invented])
    assert after.holes == 1
    assert np.all(before.vertices[after.invented, 2] < -0.55)
    assert 0.59 < radius.min() < radius.max() < 1.03
    assert -0.64 < after.mesh.vertices[:, 2].min() < -0.59
    assert is_watertight(after.mesh)
    assert after.invented_share() == pytest.approx(0.2, abs=0.05)  # of the sphere; a cap's area is its height over the diameter


def test_what_stands_in_the_air_is_pushed_in() -> None:
    """Where photos looked through, the surface withdraws to the border of what they saw."""

    def in_air(points: Array) -> Array:
        return (points[:, 2] < -0.5) & (np.linalg.norm(points[:, :2], axis=1) < 0.4)

    free = stretch_unsupported(ball(bulge=0.4), subject(), nothing).mesh.vertices
    after = stretch_unsupported(ball(bulge=0.4), subject(), in_air).mesh.vertices
    assert in_air(free).sum() > 200
    middle = np.linalg.norm(after[:, :2], axis=1) < 0.3
    assert after[middle & (after[:, 2] < 0)][:, 2].min() > -0.52


def test_a_supported_mesh_is_left_alone() -> None:
    """With points everywhere nothing is invented and nothing moves."""
    whole = subject()
    cloud = Cloud(np.vstack([whole.cloud.points, -whole.cloud.points]), np.vstack([whole.cloud.normals] * 2), np.zeros((0, 3), np.uint8))
    after = stretch_unsupported(ball(), Subject(cloud, whole.footprint, None, True), nothing)
    assert after.holes == 0
    assert after.invented_share() == 0
    np.testing.assert_array_equal(after.mesh.vertices, ball().vertices)


def turned_inside_out(mesh: Mesh) -> Array:
    """Faces that do not part inside from outside."""
    return folded(mesh, np.arange(len(mesh.faces)), 3.5)


def test_a_fold_is_a_face_with_no_body_behind_it_or_one_before_it() -> None:
    """None on a ball; all of one turned inside out; where a dent comes out at the other side, the dent and what it runs through."""
    whole = ball()
    assert not turned_inside_out(whole).any()
    assert turned_inside_out(Mesh(whole.vertices, whole.faces[:, ::-1])).all()
    dented = whole.vertices.copy()
    deep = dented[:, 2] < -0.8
    dented[deep, 2] += 2.2
    beyond = (dented[:, 2] > 1.1)[whole.faces].all(1) & deep[whole.faces].all(1)
    assert beyond.sum() > 50
    assert turned_inside_out(Mesh(dented, whole.faces))[beyond].all()
    assert not turned_inside_out(Mesh(dented, whole.faces))[(whole.vertices[:, 2] > 0)[whole.faces].all(1)].all()


def test_the_body_behind_a_place_is_as_deep_as_it_is() -> None:
    """A ball is its diameter deep; a ball inside out has no body."""
    whole, some = ball(), np.arange(0, 1000, 50)
    normals = whole.vertices
    np.testing.assert_allclose(depth_behind(whole, normals, some, 3.5), 2.0, atol=0.02)
    np.testing.assert_array_equal(depth_behind(Mesh(whole.vertices, whole.faces[:, ::-1]), -normals, some, 3.5), 0)


def test_a_neck_that_would_collapse_stays_as_it_was() -> None:
    """The least surface between the ends of a long thin neck is none: the ends are kept and nothing turns inside out."""
    tube = Mesh.of_legacy(o3d.geometry.TriangleMesh.create_sphere(1.0, 40))
    waist = 1 - 0.85 * np.exp(-((tube.vertices[:, 2] / 0.5) ** 2))
    tube = Mesh(tube.vertices * np.column_stack([waist, waist, np.full(len(waist), 2.0)]), tube.faces)
    dense = np.asarray(tube.legacy().sample_points_uniformly(60_000).points)
    dense = dense[abs(dense[:, 2]) > 0.5]
    cloud = Cloud(dense, dense, np.zeros(dense.shape, np.uint8))
    after = stretch_unsupported(tube, Subject(cloud, subject().footprint, None, True), nothing)
    assert after.invented.sum() > 200
    assert not turned_inside_out(after.mesh).any()
    assert np.linalg.norm(after.mesh.vertices[:, :2], axis=1)[abs(after.mesh.vertices[:, 2]) < 0.2].min() > 0.01


def test_a_whole_side_that_nobody_photographed_keeps_its_shape() -> None:
    """Between the rims of half a ball there is no gap to be closed: Poisson's surface stays, and counts as invented."""
    half = subject()
    front = half.cloud.select(half.cloud.points[:, 2] > 0)
    after = stretch_unsupported(ball(), Subject(front, half.footprint, None, True), nothing)
    assert after.invented_share() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(after.mesh.vertices, ball().vertices)


def test_no_push_goes_deeper_than_half_the_body() -> None:
    """Whatever photos seem to have looked through, a side is not pushed out of the other one."""
    after = stretch_unsupported(ball(), subject(), lambda points: points[:, 2] < 0.9).mesh
    assert not turned_inside_out(after).any()
    assert after.vertices[:, 2].min() < -0.3


def test_the_operator_has_constants_in_its_kernel_and_the_area_as_mass() -> None:
    """Rows sum to zero; the masses sum to the sphere's area; coordinates of a sphere are eigenfunctions with value 2."""
    mesh = ball()
    operator, mass = laplacian(mesh.vertices, mesh.faces)
    assert abs(operator @ np.ones(len(mass))).max() < 1e-9
    assert mass.sum() == pytest.approx(4 * np.pi, rel=0.01)
    z = mesh.vertices[:, 2]
    assert (z @ (operator @ z)) / (z @ (mass * z)) == pytest.approx(2.0, rel=0.03)  # long triangles at the poles


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[SeenGround, Truth, list[Camera]]:
    folder: Path = tmp_path_factory.mktemp("ground")
    truth = write_capture(folder, views=14, size=(220, 165))
    cameras = read_cameras(folder / "inputs" / "sfm", [])
    height = float(truth.up_world @ truth.t)
    middle = truth.scale * np.array([[0.5, 0.3, 0], [-0.5, -0.3, 0], [0, 0, 0.73], [0, 0, 0]]) @ truth.R.T + truth.t
    return find_seen_ground(cameras, Plane(np.asarray(truth.up_world), height, 0.001), middle), truth, cameras


def world(truth: Truth, points: list[list[float]]) -> Array:
    return np.asarray(truth.scale * np.array(points) @ truth.R.T + truth.t)


def test_photos_see_the_ground_beside_the_object(seen: tuple[SeenGround, Truth, list[Camera]]) -> None:
    """Places beside the body are in the air; its surface and its inside are not."""
    ground, truth, _ = seen
    beside = world(truth, [[0.55, 0.25, 0.15], [-0.5, -0.3, 0.2], [0.0, 0.42, 0.3]])
    inside = world(truth, [[0, 0, 0.48], [0.3, 0, 0.45], [-0.3, 0.1, 0.5], [0.28, 0.14, 0.1]])
    assert (ground.looked_past(beside) >= 1).all()
    np.testing.assert_array_equal(ground.looked_past(inside), 0)


def test_no_bitmap_covers_the_object(seen: tuple[SeenGround, Truth, list[Camera]]) -> None:
    """Pixels of the object are seldom taken for ground, though these photos are small and their ground is smooth."""
    ground, truth, _ = seen
    within = np.asarray(truth.meshes[0].sample_points_uniformly(3000).points) * 0.95 + (0, 0, 0.05 * 0.48)
    assert (ground.looked_past(world(truth, within.tolist())) >= 1).mean() < 0.05


def test_without_a_plane_nothing_is_known() -> None:
    """No support plane, no ground to be seen."""
    assert not find_seen_ground([], None, np.zeros((1, 3))).looked_past(np.zeros((2, 3))).any()
