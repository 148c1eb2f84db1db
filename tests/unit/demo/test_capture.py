"""The sample capture: photos that a reconstruction can read, and their exact truth."""

import json
from pathlib import Path

import numpy as np
import open3d as o3d
import pytest
from PIL import Image

from deploy.demo.capture import look_at, orbit, render_capture
from deploy.demo.objects import Surface, animal, rounded_animal, surface_of


@pytest.fixture(scope="module")
def surface() -> Surface:
    """The object, coarsely."""
    return rounded_animal(cell=0.012)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small photos of it."""
    out = tmp_path_factory.mktemp("capture")
    render_capture(out, views=4, width=320, cell=0.02)
    return out


def _edge_use(triangles: np.ndarray) -> dict[tuple[int, int], int]:
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    unique, count = np.unique(edges, axis=0, return_counts=True)
    return {(int(a), int(b)): int(n) for (a, b), n in zip(unique, count, strict=True)}


def test_the_demo_object_is_closed() -> None:
    """Every directed edge is used once in each direction: watertight, and oriented consistently."""
    use = _edge_use(rounded_animal().triangles)
    assert set(use.values()) == {1}
    assert all((b, a) in use for a, b in use)


def test_the_mesh_lies_on_its_field(surface: Surface) -> None:
    """Vertices are within a tenth of a millimetre of zero, soles apart; normals point out of it."""
    above = surface.vertices[:, 2] > 0.02
    assert np.percentile(np.abs(animal(surface.vertices[above])), 99) < 1e-4
    outside = animal(surface.vertices[above] + 0.004 * surface.normals[above])
    assert (outside > 0).mean() > 0.99


def test_triangles_face_outward(surface: Surface) -> None:
    """The signed volume is positive, that of a body about 0.9 m long."""
    a, b, c = (surface.vertices[surface.triangles[:, k]] for k in range(3))
    volume = float((a * np.cross(b, c)).sum() / 6)
    assert 0.01 < volume < 0.1
    assert 1.0 < surface.diagonal < 1.3


def test_surface_nets_of_a_sphere_are_a_sphere() -> None:
    """Newton steps bring every vertex onto the field's zero."""
    ball = surface_of(lambda p: np.linalg.norm(p, axis=1) - 0.3, np.full(3, -0.4), np.full(3, 0.4), 0.05)
    np.testing.assert_allclose(np.linalg.norm(ball.vertices, axis=1), 0.3, atol=1e-5)


def test_cameras_look_at_their_target() -> None:
    """The target lies on the optical axis, z up appears upwards, and R is a rotation."""
    R, t = look_at(np.array([2.0, 1.0, 1.5]), np.array([0.1, 0.2, 0.3]))
    seen = R @ np.array([0.1, 0.2, 0.3]) + t
    np.testing.assert_allclose(seen[:2], 0, atol=1e-12)
    assert seen[2] > 0 and (R @ [0, 0, 1.0])[1] < 0
    assert np.linalg.det(R) == pytest.approx(1)


def test_the_object_fills_the_frame_of_every_camera() -> None:
    """It is whole in every photo, with little room to spare."""
    vertices = rounded_animal(cell=0.03).vertices
    for camera in orbit(24, 1280, 960):
        image = camera.project(vertices)
        assert (image[:, :2].min(axis=0) > 5).all()
        assert (image[:, :2].max(axis=0) < [1275, 955]).all()


def test_photos_carry_what_a_camera_writes(capture: Path) -> None:
    """Upright JPEG with make, model and focal length."""
    with Image.open(capture / "photos" / "view_000.jpg") as photo:
        details = photo.getexif().get_ifd(0x8769)
        assert photo.size == (320, 240)
        assert photo.getexif()[0x010F] == "Meshwork"
        assert details[0xA405] == 42 and float(details[0x920A]) == 42.0


def test_photo_and_truth_agree(capture: Path) -> None:
    """Rays through pixels of the true cameras hit the true mesh where the photo shows the object against the backdrop or ground."""
    cameras = json.loads((capture / "truth" / "cameras.json").read_text())["images"]
    mesh = o3d.io.read_triangle_mesh(str(capture / "truth" / "mesh.ply"))
    camera = cameras["view_001.jpg"]
    top = np.asarray(mesh.vertices)[np.argmax(np.asarray(mesh.vertices)[:, 2])]
    x, y, z = np.array(camera["K"]) @ (np.array(camera["R"]) @ top + np.array(camera["t"]))
    photo = np.asarray(Image.open(capture / "photos" / "view_001.jpg").convert("RGB")).astype(float)
    column, row = int(x / z), int(y / z)
    inside, outside = photo[row + 4 : row + 9, column - 2 : column + 3], photo[row - 9 : row - 4, column - 2 : column + 3]
    assert np.abs(inside.mean(axis=(0, 1)) - outside.mean(axis=(0, 1))).max() > 15


def test_the_same_call_renders_the_same_bytes(capture: Path, tmp_path: Path) -> None:
    """So that scores of two runs can be compared."""
    render_capture(tmp_path, views=4, width=320, cell=0.02)
    for name in ("photos/view_002.jpg", "truth/cameras.json", "truth/mesh.ply"):
        assert (capture / name).read_bytes() == (tmp_path / name).read_bytes()
