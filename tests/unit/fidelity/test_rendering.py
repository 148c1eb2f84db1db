"""The scorer of views kept out: right on the truth itself, and every known way to spoil the truth is seen in the figure meant for it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open3d as o3d
import pytest
import trimesh
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from deploy.demo.capture import Camera, look_at, write_cameras
from deploy.demo.scoring import Similarity
from tests.benchmarks.fidelity.rendering import score_views, write_comparisons
from tests.benchmarks.fidelity.viewer import sample_bilinear, to_srgb

Floats = NDArray[np.float64]

RADIUS = 0.5
SAME = Similarity(1.0, np.eye(3), np.zeros(3))
COLUMNS, ROWS = 96, 48
TEXTURE = 512


def _colour(points: Floats) -> Floats:
    """Linear colours of the truth: smooth enough for the texture, different everywhere."""
    phase = points @ np.array([[9.0, 4.0, -6.0], [3.0, -8.0, 5.0], [-5.0, 6.0, 9.0]])
    return np.asarray(0.3 + 0.2 * np.sin(phase + np.array([0.3, 1.1, 2.0])))


def _on_sphere(u: Floats, v: Floats) -> Floats:
    """Points of the sphere that stands on z = 0; u around, v from the top."""
    round_, down = 2 * np.pi * u, np.pi * v
    return RADIUS * np.stack([np.cos(round_) * np.sin(down), np.sin(round_) * np.sin(down), 1 + np.cos(down)], -1)


@dataclass(frozen=True)
class _Sphere:
    """A sphere with its UV grid; the first column of vertices is there twice."""

    vertices: Floats
    faces: NDArray[np.int64]
    uv: Floats  # origin top left
    texture: NDArray[np.uint8]

    def write(self, path: Path) -> Path:
        """A GLB."""
        looks: Any = trimesh.visual
        material = looks.material.PBRMaterial(baseColorTexture=Image.fromarray(self.texture))
        flipped = np.column_stack([self.uv[:, 0], 1 - self.uv[:, 1]])
        visual = looks.TextureVisuals(uv=flipped, material=material)
        trimesh.Trimesh(self.vertices, self.faces, visual=visual, process=False).export(str(path))
        return path


def _sphere(texture: NDArray[np.uint8] | None = None) -> _Sphere:
    v, u = np.meshgrid(np.arange(ROWS + 1) / ROWS, np.arange(COLUMNS + 1) / COLUMNS, indexing="ij")
    index = np.arange((ROWS + 1) * (COLUMNS + 1)).reshape(ROWS + 1, COLUMNS + 1)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return _Sphere(_on_sphere(u, v).reshape(-1, 3), faces, np.stack([u, v], -1).reshape(-1, 2), _painted() if texture is None else texture)


def _painted(gain: float = 1.0) -> NDArray[np.uint8]:
    centres = (np.arange(TEXTURE) + 0.5) / TEXTURE
    v, u = np.meshgrid(centres, centres, indexing="ij")
    return np.round(255 * to_srgb(gain * _colour(_on_sphere(u, v)))).astype(np.uint8)


def _photo(camera: Camera, scene: o3d.t.geometry.RaycastingScene) -> NDArray[np.uint8]:
    """The truth over grey ground, four rays per pixel."""
    total = np.zeros((camera.height, camera.width, 3))
    for dx, dy in ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)):
        x, y = np.meshgrid(np.arange(camera.width) + dx, np.arange(camera.height) + dy)
        local = np.stack([(x - camera.K[0, 2]) / camera.K[0, 0], (y - camera.K[1, 2]) / camera.K[1, 1], np.ones_like(x)], -1)
        ray = local @ camera.R
        depth = scene.cast_rays(o3d.core.Tensor(np.concatenate([np.broadcast_to(camera.centre, ray.shape), ray], -1).astype(np.float32)))[
            "t_hit"
        ].numpy()
        hit = np.isfinite(depth)
        colours = np.full(ray.shape, 0.4)
        colours[hit] = _colour(camera.centre + depth[hit, None] * ray[hit])
        total += colours / 4
    return np.round(255 * to_srgb(total)).astype(np.uint8)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A truth folder; two kept-out photos beside it, and one photo that was sent."""
    folder = tmp_path_factory.mktemp("capture")
    (folder / "truth").mkdir()
    (folder / "kept_out").mkdir()
    K = np.array([[260.0, 0, 80], [0, 260, 60], [0, 0, 1]])
    away = ([2.0, 0.6, 0.9], [-1.5, 1.3, 1.4], [0.2, -2.0, 1.0])
    target = np.array([0.02, 0.01, RADIUS])
    cameras = [Camera(f"view_{i}.png", *look_at(target + np.array(centre), target), K, 160, 120) for i, centre in enumerate(away)]
    sphere = _sphere()
    mesh = o3d.geometry.TriangleMesh(o3d.utility.Vector3dVector(sphere.vertices), o3d.utility.Vector3iVector(sphere.faces))
    o3d.io.write_triangle_mesh(str(folder / "truth" / "mesh.ply"), mesh)
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(mesh))
    for camera in cameras[:2]:
        cv2.imwrite(str(folder / "kept_out" / camera.name), _photo(camera, scene)[..., ::-1])
    write_cameras(cameras, folder / "truth" / "cameras.json")
    return folder / "truth"


def test_the_truth_itself_has_no_error_beyond_rounding(truth: Path, tmp_path: Path) -> None:
    """8 bits in photo and texture are all that separates the truth from the photos."""
    scores = score_views(_sphere().write(tmp_path / "model.glb"), SAME, truth)
    assert scores.psnr > 48
    assert scores.ssim > 0.999
    assert scores.silhouette_iou > 0.9999
    assert scores.back_facing == scores.missing == 0.0


def test_the_models_frame_does_not_matter(truth: Path, tmp_path: Path) -> None:
    """A model in another frame scores the same when its similarity is given."""
    turn = Rotation.from_rotvec([0.3, 0.6, -0.2]).as_matrix()
    away = Similarity(2.5, turn, np.array([0.3, -1.0, 4.0]))
    inverse = Similarity(1 / 2.5, turn.T, -turn.T @ away.t / 2.5)
    sphere = _sphere()
    moved = _Sphere(inverse(sphere.vertices), sphere.faces, sphere.uv, sphere.texture)
    assert score_views(moved.write(tmp_path / "model.glb"), away, truth).psnr > 48


def test_one_brightness_of_the_whole_model_is_free(truth: Path, tmp_path: Path) -> None:
    """A model that is darker everywhere by a third of a stop keeps its PSNR, but for the texture's rounding."""
    assert score_views(_sphere(_painted(0.8)).write(tmp_path / "model.glb"), SAME, truth).psnr > 46


def test_a_shifted_texture_costs_what_its_shift_says(truth: Path, tmp_path: Path) -> None:
    """The PSNR is that of the colours that far apart; half the shift costs a quarter of the error, 6 dB less."""
    eight, four = (score_views(_sphere(np.roll(_painted(), n, 1)).write(tmp_path / f"{n}.glb"), SAME, truth).psnr for n in (8, 4))
    side = _painted()[TEXTURE // 8 : -TEXTURE // 8].astype(float) / 255
    assert eight == pytest.approx(-10 * np.log10(np.mean((np.roll(side, 8, 1) - side) ** 2)), abs=1.5)
    assert four - eight == pytest.approx(6, abs=0.6)


def test_a_texture_upside_down_is_seen(truth: Path, tmp_path: Path) -> None:
    """The origin of UV is the top left corner."""
    assert score_views(_sphere(_painted()[::-1]).write(tmp_path / "model.glb"), SAME, truth).psnr < 20


def test_inverted_triangles_are_counted_as_back_facing(truth: Path, tmp_path: Path) -> None:
    """Every pixel of a model turned inside out shows a triangle's back."""
    sphere = _sphere()
    scores = score_views(_Sphere(sphere.vertices, sphere.faces[:, ::-1], sphere.uv, sphere.texture).write(tmp_path / "m.glb"), SAME, truth)
    assert scores.back_facing == 1.0


def _without(keep: Callable[[Floats], NDArray[np.bool_]]) -> _Sphere:
    sphere = _sphere()
    return _Sphere(sphere.vertices, sphere.faces[keep(sphere.vertices[sphere.faces].mean(1))], sphere.uv, sphere.texture)


def test_missing_surface_counts_as_wrong(truth: Path, tmp_path: Path) -> None:
    """With the upper part cut off, the pixels there are missing (or show the inside), and cost most of the PSNR."""
    scores = score_views(_without(lambda centre: centre[:, 2] < 1.6 * RADIUS).write(tmp_path / "model.glb"), SAME, truth)
    assert 0.02 < scores.missing < 0.4
    assert scores.psnr < 20
    assert scores.silhouette_iou < 0.98


def test_the_lowest_hundredth_does_not_count(truth: Path, tmp_path: Path) -> None:
    """Surface below 1 % of the object's height may be lost without a loss in PSNR."""
    cropped = _without(lambda centre: centre[:, 2] > 0.008 * RADIUS)
    assert score_views(cropped.write(tmp_path / "model.glb"), SAME, truth).psnr > 47


def test_a_model_too_large_is_seen_in_its_silhouette(truth: Path, tmp_path: Path) -> None:
    """A sphere whose radius is 10 % too large has about a fifth too much silhouette."""
    larger = Similarity(1.1, np.eye(3), np.array([0.0, 0.0, -0.1 * RADIUS]))
    scores = score_views(_sphere().write(tmp_path / "model.glb"), larger, truth)
    assert scores.silhouette_iou == pytest.approx(1 / 1.21, abs=0.03)
    assert scores.missing == 0.0


def test_pictures_show_photo_model_and_error(truth: Path, tmp_path: Path) -> None:
    """One picture per photo kept out: for the truth, its first two thirds agree and the last is black."""
    written = write_comparisons(_sphere().write(tmp_path / "model.glb"), SAME, truth, tmp_path / "pictures")
    assert [path.name for path in written] == ["view_0.png", "view_1.png"]
    photo, model, error = np.split(np.asarray(cv2.imread(str(written[0])), float), 3, axis=1)
    middle = np.s_[30:-30, 30:-30]
    assert np.abs(photo - model)[middle].mean() < 2
    assert error[middle].mean() < 8


def test_texels_are_decoded_before_they_are_mixed() -> None:
    """Half way between black and white lies linear 0.5, not the middle of the sRGB scale; beyond the edge its texel repeats."""
    texture = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    values = sample_bilinear(texture, np.array([[0.5, 0.5], [0.25, 0.5], [1.4, -0.2]]))
    assert values[:, 0] == pytest.approx([0.5, 0.0, 1.0])
