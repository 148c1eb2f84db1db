"""Refinement of a mesh against photos of a made capture whose surface is known."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import open3d as o3d
import pytest

from services.postprocess.capture import Camera
from services.postprocess.refinement import Refinement, neighbours, refine, unfolded
from services.postprocess.refinement_kernels import smooth
from services.postprocess.surface import Mesh
from services.postprocess.vertex_views import stack_photos
from services.postprocess.visibility import RayCaster, pixel_rays
from tests.unit.postprocess.capture import bumpy_body, look_at, orbit_centres

SIZE = (320, 240)
PIXEL = 2.2 / (1.15 * SIZE[0])  # what a pixel of the photos spans on the surface, in its units


def textured(points: np.ndarray) -> np.ndarray:
    """Grey levels n of a solid texture whose waves are six to twelve pixels long."""
    rng = np.random.default_rng(3)
    waves = rng.normal(size=(12, 3))
    waves *= (2 * np.pi / PIXEL / rng.uniform(6, 12, 12) / np.linalg.norm(waves, axis=1))[:, None]
    return np.asarray(128 + 20 * np.sin(points @ waves.T + rng.uniform(0, 6, 12)).sum(1))


def photograph(mesh: Mesh, folder: Path, views: int) -> list[Camera]:
    """Cameras around the mesh and their photos, 2×2 rays per pixel, with noise of one grey level."""
    caster, cameras, rng = RayCaster(mesh), [], np.random.default_rng(1)
    for k, centre in enumerate(orbit_centres(views)):
        R = look_at(centre, np.array([0, 0, 0.45]))
        K = np.array([[1.15 * SIZE[0], 0, SIZE[0] / 2], [0, 1.15 * SIZE[0], SIZE[1] / 2], [0, 0, 1]])
        camera = Camera(f"{k}", folder / f"{k}.png", None, R, -R @ centre, K, *SIZE)
        fine = replace(camera, K=K * [[2], [2], [1]], width=2 * SIZE[0], height=2 * SIZE[1])
        rays, depth = pixel_rays(fine).astype(float), caster.depth(fine)
        grey = np.full(depth.shape, 30.0)
        hit = np.isfinite(depth)
        grey[hit] = textured((rays[..., :3] + depth[..., None] * rays[..., 3:])[hit])
        small = grey.reshape(SIZE[1], 2, SIZE[0], 2).mean((1, 3)) + rng.normal(size=SIZE[::-1])
        cv2.imwrite(str(camera.image), np.clip(np.round(small), 0, 255).astype(np.uint8))
        cameras.append(camera)
    return cameras


class Spoilt:
    """A bumpy body, photos of it, and the same body bent by waves a pixel high."""

    def __init__(self, folder: Path) -> None:
        body = bumpy_body()[0]
        body.compute_vertex_normals()
        points, normals = np.asarray(body.vertices), np.asarray(body.vertex_normals)
        faces = np.asarray(body.triangles).astype(np.int32)
        self.true = Mesh(points, faces)
        self.cameras = photograph(self.true, folder, 12)
        wave = np.sin(14 * points[:, 0] + 1) * np.cos(17 * points[:, 1]) + 0.5 * np.cos(15 * points[:, 2])
        self.mesh = Mesh(points + PIXEL * wave[:, None] * normals, faces)
        self.upper = points[:, 2] > 0.45  # what lies below is hidden from most photos

    def error_px(self, mesh: Mesh) -> np.ndarray:
        scene = o3d.t.geometry.RaycastingScene()
        scene.add_triangles(self.true.vertices.astype(np.float32), self.true.faces.astype(np.uint32))
        return np.asarray(scene.compute_distance(o3d.core.Tensor(mesh.vertices[self.upper].astype(np.float32))).numpy()) / PIXEL


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Spoilt:
    return Spoilt(tmp_path_factory.mktemp("spoilt"))


@pytest.fixture(scope="module")
def refined(spoilt: Spoilt) -> Refinement:
    found = refine(spoilt.mesh, spoilt.cameras, 4)
    assert found is not None
    return found


def test_vertices_return_to_the_surface(spoilt: Spoilt, refined: Refinement) -> None:
    """The mean error falls from half a pixel to under an eighth."""
    before, after = spoilt.error_px(spoilt.mesh), spoilt.error_px(refined.mesh)
    assert np.mean(before) > 0.4
    assert np.mean(after) < 0.125
    assert np.quantile(after, 0.95) < 0.35


def test_the_figures_tell_what_was_done(refined: Refinement) -> None:
    """Photos agree better than before; moves are of the size of the waves."""
    assert refined.ncc_after > refined.ncc_before + 0.01
    assert 0.1 < refined.mean_move_px < 2
    assert 0.2 < refined.moved < 1
    assert set(refined.as_summary()) == {
        "refinement_mean_move_px",
        "refinement_moved",
        "refinement_ncc_before",
        "refinement_ncc_after",
    }


def test_faces_keep_their_order_and_side(spoilt: Spoilt, refined: Refinement) -> None:
    """The same triangles, and none folded over."""
    assert np.array_equal(refined.mesh.faces, spoilt.mesh.faces)
    assert unfolded(spoilt.mesh, refined.mesh).vertices == pytest.approx(refined.mesh.vertices)


def test_the_same_mesh_gives_the_same_bytes(spoilt: Spoilt) -> None:
    """Nothing is drawn, nothing depends on the order of threads."""
    one, other = refine(spoilt.mesh, spoilt.cameras[:5], 1), refine(spoilt.mesh, spoilt.cameras[:5], 1)
    assert one is not None
    assert other is not None
    assert np.array_equal(one.mesh.vertices, other.mesh.vertices)


def test_surface_without_texture_stays(spoilt: Spoilt, tmp_path: Path) -> None:
    """Photos of one grey tone with a little noise move nothing by more than a twentieth of a pixel."""
    cameras = []
    for k, camera in enumerate(spoilt.cameras):
        noise = np.random.default_rng(k).normal(128, 1, (camera.height, camera.width, 3))
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.round(noise).astype(np.uint8))
        cameras.append(Camera(camera.name, tmp_path / f"{k}.png", None, camera.R, camera.t, camera.K, camera.width, camera.height))
    found = refine(spoilt.mesh, cameras, 2)
    assert found is None or found.mean_move_px < 0.05


def test_no_rounds_or_no_second_photo_is_no_refinement(spoilt: Spoilt) -> None:
    """0 turns it off; one photo agrees with none."""
    assert refine(spoilt.mesh, spoilt.cameras, 0) is None
    assert refine(spoilt.mesh, spoilt.cameras[:1], 4) is None


def test_a_folded_face_goes_back() -> None:
    """A vertex that passed through the opposite edge returns, the others keep their place."""
    flat = Mesh(
        np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.0], [2, 0, 0], [2, 1, 0]]),
        np.array([[0, 1, 2], [1, 3, 2], [1, 4, 3], [4, 5, 3]]),
    )
    moved = flat.vertices + np.array([0, 0, 0.01])
    moved[0] = (1.5, 1.5, 0)
    repaired = unfolded(flat, Mesh(moved, flat.faces)).vertices
    assert repaired[0] == pytest.approx((0, 0, 0))
    assert repaired[5] == pytest.approx((2, 1, 0.01))


def test_what_is_unknown_follows_its_neighbours() -> None:
    """Along a chain the sure end holds its value and hands it on."""
    faces = np.array([[i, i + 1, i + 2] for i in range(8)], np.int32)
    values, weights = np.zeros(10), np.zeros(10)
    values[0], weights[0] = 1.0, 100.0
    result = smooth(values, weights, *neighbours(faces, 10), 0.5, 400)
    assert result == pytest.approx(np.ones(10), abs=0.05)


def test_halved_photos_have_cameras_to_match(spoilt: Spoilt) -> None:
    """Half the size, K scaled with it, the same poses."""
    stack = stack_photos(spoilt.cameras)
    half = stack.halved()
    assert half.sizes.tolist() == [[120, 160]] * 12
    assert half.focal == pytest.approx(stack.focal / 2)
    assert len(half.photos) == 12 * 120 * 160


def test_rays_beside_the_mesh_are_not_needed(spoilt: Spoilt) -> None:
    """The depth within the window of the mesh's box is that of the whole frame."""
    camera, caster = spoilt.cameras[0], RayCaster(spoilt.mesh)
    assert np.array_equal(caster.depth(camera), caster.hits(camera)[0])
    assert pixel_rays(camera).shape == (240, 320, 6)
