"""Signs that a model lacks parts: it hovers, it does not reach what stereo confirmed, or it is not where the photos look."""

from pathlib import Path

import cv2
import numpy as np
import open3d as o3d
import pytest

from services.postprocess.capture import Camera, Cloud, Floats
from services.postprocess.free_space import FreeSpace
from services.postprocess.isolation import Subject
from services.postprocess.omissions import Omissions, find_omissions
from services.postprocess.support_plane import Plane
from services.postprocess.surface import Mesh

GROUND = Plane(np.array([0, 0, 1.0]), 0.0, 0.001)
NOTHING = Cloud(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3), np.uint8))
STANDING = Subject(NOTHING, NOTHING, GROUND, True)
SCENE = Subject(NOTHING, NOTHING, None, False)


def ball(centre: tuple[float, float, float], radius: float = 0.5) -> Mesh:
    return Mesh.of_legacy(o3d.geometry.TriangleMesh.create_sphere(radius, 40).translate(centre))


def together(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces).astype(np.int32))


def points_on(*meshes: Mesh) -> Floats:
    """4,000 points of each."""
    np.random.seed(0)
    return np.concatenate([np.asarray(mesh.legacy().sample_points_uniformly(4000).points) for mesh in meshes])


def omissions_of(mesh: Mesh, points: Floats, cameras: list[Camera], folder: Path, subject: Subject = STANDING) -> Omissions:
    """`folder` holds no depth maps: nothing is known to be empty."""
    cloud = Cloud(points, np.tile([1.0, 0, 0], (len(points), 1)), np.zeros(points.shape, np.uint8))
    return find_omissions(mesh, cloud, subject, cameras, FreeSpace(cameras, folder))


def test_what_stands_has_no_gap_and_what_lost_its_legs_has(tmp_path: Path) -> None:
    """The gap is measured to the plane, in diagonals of the model."""
    standing, hovering = ball((0, 0, 0.5)), ball((0, 0, 1.0))
    assert omissions_of(standing, points_on(standing), [], tmp_path).gap_below == pytest.approx(0, abs=0.002)
    assert omissions_of(hovering, points_on(hovering), [], tmp_path).gap_below == pytest.approx(0.5 / np.sqrt(3), abs=0.005)


def test_points_of_a_part_that_is_not_on_the_model_are_lost(tmp_path: Path) -> None:
    """Half the points are of a second ball, above the first."""
    lower, upper = ball((0, 0, 0.5)), ball((0, 0, 1.5))
    points = points_on(lower, upper)
    assert omissions_of(together(lower, upper), points, [], tmp_path).lost_points == 0
    assert omissions_of(lower, points, [], tmp_path).lost_points == pytest.approx(0.5, abs=0.03)


def test_what_was_removed_on_purpose_is_not_lost(tmp_path: Path) -> None:
    """Neither the ground below the object nor another object beside it."""
    body, neighbour = ball((0, 0, 0.5)), ball((2, 0, 0.5))
    ground = np.column_stack([np.random.default_rng(0).uniform(-1, 1, (4000, 2)), np.zeros(4000)])
    points = np.concatenate([points_on(body, neighbour), ground])
    assert omissions_of(body, points, [], tmp_path).lost_points == 0


def wall(hole: float) -> Mesh:
    """Two metres wide at z = 2, with a square hole of this size in the middle."""
    grid = np.linspace(-1, 1, 41)
    x, y = np.meshgrid(grid, grid)
    vertices = np.stack([x, y, np.full_like(x, 2.0)], -1).reshape(-1, 3)
    index = np.arange(41 * 41).reshape(41, 41)
    quads = np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], -1).reshape(-1, 4)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)
    return Mesh(vertices, faces[np.abs(vertices[faces].mean(1)[:, :2]).max(1) > hole / 2])


def photo_of(pixels: np.ndarray, folder: Path) -> Camera:
    """A camera at the origin that looks along z and frames the wall."""
    cv2.imwrite(str(folder / "photo.png"), pixels)
    K = np.array([[100, 0, 50], [0, 100, 50], [0, 0, 1.0]])
    return Camera("photo.png", folder / "photo.png", None, np.eye(3), np.zeros(3), K, 100, 100)


def test_a_scene_must_be_where_its_photos_look(tmp_path: Path) -> None:
    """The middle third of the photo is covered, or not when the model has a hole there."""
    textured = photo_of(np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8), tmp_path)
    assert omissions_of(wall(0), np.zeros((10, 3)), [textured], tmp_path, SCENE) == Omissions(None, 0.0, 1.0)
    assert omissions_of(wall(1), np.zeros((10, 3)), [textured], tmp_path, SCENE).middle_covered == 0


def test_a_plain_middle_tells_nothing(tmp_path: Path) -> None:
    """Sky through an arch is no surface that the model lacks."""
    plain = photo_of(np.full((100, 100, 3), 200, np.uint8), tmp_path)
    assert omissions_of(wall(1), np.zeros((10, 3)), [plain], tmp_path, SCENE).middle_covered is None


def test_what_poisson_lost_of_the_kept_cloud_is_lost(tmp_path: Path) -> None:
    """Of a scene, and of an object without a plane, the kept cloud alone is compared, wherever the part was."""
    body, head = ball((0, 0, 0.5)), ball((1, 0, 0.5))
    points = points_on(body, head)
    kept = Cloud(points, np.tile([1.0, 0, 0], (len(points), 1)), np.zeros(points.shape, np.uint8))
    for plane in (GROUND, None):
        found = omissions_of(body, points, [], tmp_path, Subject(kept, NOTHING, plane, True))
        assert found.lost_points == pytest.approx(0.5, abs=0.03)
    assert found.as_summary() == {"gap_below": None, "lost_points": found.as_summary()["lost_points"], "middle_covered": None}
