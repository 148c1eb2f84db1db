"""The whole stage on made captures: the truth is known, so every promise is checked against it."""

import json
from pathlib import Path

import cv2
import numpy as np
import open3d as o3d
import pytest

from services.postprocess.capture import read_cameras, read_cloud
from services.postprocess.cleaning import is_watertight
from services.postprocess.colour import to_srgb
from services.postprocess.params import PostprocessParams
from services.postprocess.stage import PostprocessStage, reduced
from services.postprocess.surface import Mesh
from shared.contracts.manifest import StageReport
from shared.errors import PermanentError
from shared.runtime.workspace import Workspace
from tests.unit.postprocess.capture import Truth, albedo, write_capture

SMALL = PostprocessParams(poisson_depth=7, triangles=12_000, texture_size=512, point_limit=120_000, hold_out_every=6)


class Result:
    """One run and what it wrote."""

    def __init__(self, folder: Path, truth: Truth, report: StageReport) -> None:
        self.truth, self.report, self.outputs = truth, report, folder / "outputs"
        with np.load(self.outputs / "mesh.npz") as mesh:
            self.mesh, self.uv = Mesh(mesh["vertices"], mesh["faces"]), mesh["uv"]
        self.texture = cv2.imread(str(self.outputs / "texture.png"))[..., ::-1]
        self.similarity = json.loads((self.outputs / "similarity.json").read_text())
        self.cameras = read_cameras(folder / "inputs" / "sfm", [])
        self.vertices = truth.to_object(self.mesh.vertices)

    def in_model_frame(self) -> np.ndarray:
        return self.similarity["scale"] * self.mesh.vertices @ np.array(self.similarity["R"]).T + self.similarity["t"]


def run(folder: Path, params: PostprocessParams = SMALL) -> StageReport:
    return PostprocessStage().run(Workspace(folder), params)


@pytest.fixture(scope="module")
def animal(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A four-legged body on textured ground, photos up to a fifth of a stop apart."""
    folder = tmp_path_factory.mktemp("animal")
    truth = write_capture(folder, views=12, size=(320, 240), exposure_stop=0.2)
    return Result(folder, truth, run(folder))


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A façade photographed along its length."""
    folder = tmp_path_factory.mktemp("wall")
    truth = write_capture(folder, views=6, size=(320, 240), facade=True)
    return Result(folder, truth, run(folder))


def distance_to_truth(result: Result) -> np.ndarray:
    scene = o3d.t.geometry.RaycastingScene()
    for mesh in result.truth.meshes:
        scene.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(mesh))
    return scene.compute_distance(o3d.core.Tensor(result.vertices.astype(np.float32))).numpy()


def test_the_object_is_alone_and_whole(animal: Result) -> None:
    """No ground is left, nothing is far from the object, and its feet reach the ground."""
    seen_from_outside = animal.vertices[:, 2] < 0.2  # legs; the belly and the soles were in no photo
    distance = distance_to_truth(animal)
    assert np.percentile(distance[seen_from_outside], 95) < 0.02
    assert np.median(distance) < 0.004  # a third of a Poisson cell
    radius = np.linalg.norm(animal.vertices[:, :2], axis=1)
    assert radius.max() < 0.6
    low, high = animal.vertices[:, 2].min(), animal.vertices[:, 2].max()
    assert -0.005 < low < 0.005
    assert high == pytest.approx(0.73, abs=0.02)


def test_every_foot_is_there(animal: Result) -> None:
    """Each of the four legs has surface in its lowest two percent."""
    lowest = animal.vertices[animal.vertices[:, 2] < 0.015]
    for x in (-0.28, 0.28):
        for y in (-0.14, 0.14):
            assert (np.linalg.norm(lowest[:, :2] - (x, y), axis=1) < 0.09).sum() > 5


def test_an_isolated_object_is_closed(animal: Result) -> None:
    """Watertight, within the budget, and its faces look outward."""
    assert is_watertight(animal.mesh)
    assert 5_000 <= len(animal.mesh.faces) <= SMALL.triangles
    a, b, c = animal.vertices[animal.mesh.faces].transpose(1, 0, 2)
    assert (a * np.cross(b, c)).sum() > 0


def test_the_texture_has_the_colours_of_the_surface(animal: Result) -> None:
    """At the middle of each upper face the texture shows the albedo there, whatever each photo's exposure: neither mirrored nor shifted."""
    middles = animal.vertices[animal.mesh.faces].mean(1)
    seen = (middles[:, 2] > 0.45) & (distance_of(animal, middles) < 0.005)
    uv = animal.uv[seen].mean(1) * SMALL.texture_size
    shown = animal.texture[uv[:, 1].astype(int), uv[:, 0].astype(int)]
    true = 255 * to_srgb(albedo(middles[seen], np.zeros(seen.sum(), bool)))
    assert np.median(np.abs(shown - true)) < 5  # of 255: a photo's pixel spans much of the pattern
    assert np.corrcoef(shown.ravel(), true.ravel())[0, 1] > 0.97


def distance_of(result: Result, points: np.ndarray) -> np.ndarray:
    scene = o3d.t.geometry.RaycastingScene()
    for mesh in result.truth.meshes:
        scene.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(mesh))
    return scene.compute_distance(o3d.core.Tensor(points.astype(np.float32))).numpy()


def test_no_texel_is_black(animal: Result) -> None:
    """The made scene has no dark colour, so the texture has none either, seen or unseen."""
    assert animal.texture.max(2).min() > 40


def test_it_stands_in_the_models_frame(animal: Result) -> None:
    """Up is the ground's normal; bottom on y = 0; longest side 1; the first camera on the +Z side."""
    placed = animal.in_model_frame()
    low, high = placed.min(0), placed.max(0)
    np.testing.assert_allclose([low[1], (low + high)[0], (low + high)[2], (high - low).max()], [0, 0, 0, 1], atol=1e-6)
    assert (np.array(animal.similarity["R"]) @ animal.truth.up_world)[1] > 0.9995
    first = np.array(animal.similarity["R"]) @ (animal.cameras[0].centre - animal.mesh.vertices.mean(0))
    assert first[2] > 0
    assert animal.similarity["source"] == "none"


def test_the_report_has_its_numbers(animal: Result) -> None:
    """What export puts into report.json; photos kept out are predicted well on a made scene."""
    summary = animal.report.summary
    assert (summary["isolated"], summary["isolation"]) == (True, "auto")
    assert (summary["gap_below"], summary["lost_points"], summary["middle_covered"]) == (0.0, 0.0, None)
    assert summary["watertight"] is True
    assert summary["held_out_psnr_db"] > 28
    assert 0.6 < summary["texture_seen"] <= 1
    assert summary["texels_per_unit"] > 100


def test_the_cropped_cloud_is_the_object(animal: Result) -> None:
    """pointcloud.ply has the object's points and no ground."""
    points = animal.truth.to_object(read_cloud(animal.outputs / "pointcloud.ply").points)
    assert np.linalg.norm(points[:, :2], axis=1).max() < 0.62
    assert points[:, 2].min() > 0


def test_a_scene_is_kept_whole(wall: Result) -> None:
    """Nothing is isolated, the wall keeps its extent, open and upright, in the photographers' frame."""
    extent = np.ptp(wall.vertices, axis=0)
    assert wall.report.summary["isolated"] is False
    assert wall.report.summary["middle_covered"] > 0.95
    assert extent[0] > 1.45
    assert extent[2] > 0.9
    assert (np.array(wall.similarity["R"]) @ wall.truth.up_world)[1] > 0.95
    assert np.percentile(distance_to_truth(wall), 90) < 0.02  # smoothed steps of the relief and the rim


def test_the_same_capture_gives_the_same_model(animal: Result, tmp_path: Path) -> None:
    """Fixed seeds: a second run has the same vertices within 1e-4 of the diagonal."""
    (tmp_path / "inputs").symlink_to(animal.outputs.parent / "inputs")
    (tmp_path / "request.json").write_bytes((animal.outputs.parent / "request.json").read_bytes())
    run(tmp_path)
    again = Result(tmp_path, animal.truth, animal.report)
    diagonal = np.linalg.norm(np.ptp(animal.mesh.vertices, axis=0))
    assert again.mesh.faces.shape == animal.mesh.faces.shape
    assert np.abs(again.mesh.vertices - animal.mesh.vertices).max() < 1e-4 * diagonal


def test_too_few_points_are_no_surface(tmp_path: Path) -> None:
    """An empty cloud fails the job for good, with a hint."""
    write_capture(tmp_path, views=3, size=(16, 12))
    with pytest.raises(PermanentError) as failure:
        run(tmp_path)
    assert failure.value.code == "NO_SURFACE"
    assert failure.value.hint


def test_a_second_try_after_running_out_of_memory_is_coarser() -> None:
    """reduction = 1 lowers depth, texture and points."""
    smaller = reduced(PostprocessParams(), 1)
    assert (smaller.poisson_depth, smaller.texture_size, smaller.point_limit) == (8, 1024, 500_000)
    assert reduced(PostprocessParams(), 0) == PostprocessParams()
