"""The truth scores 1 and is whole; each known way of spoiling it shows in the figure meant for it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open3d as o3d
import pytest
import trimesh
from numpy.typing import NDArray

from deploy.demo.capture import Orbit, between, orbit, write_cameras, write_mesh
from deploy.demo.objects import Surface, rounded_animal
from deploy.demo.scoring import load_truth, read_cameras
from tests.benchmarks.fidelity.captures import CAPTURES, Capture, rendered
from tests.benchmarks.fidelity.score import Score, alignment, score_run, topology_of
from tests.benchmarks.fidelity.viewer import load_glb

Floats = NDArray[np.float64]
Spoil = Callable[[Floats, NDArray[np.int32]], tuple[Floats, NDArray[np.int32]]]


@pytest.fixture(scope="module")
def body() -> Surface:
    """A coarse animal."""
    return rounded_animal(cell=0.015)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory, body: Surface) -> Path:
    """Its truth, with no photos: the surface alone is scored here."""
    out = tmp_path_factory.mktemp("capture")
    (out / "truth").mkdir()
    write_mesh(body, out / "truth" / "mesh.ply")
    write_cameras(orbit(12, 640, 480), out / "truth" / "cameras.json", between(2, 12, 640, 480))
    return out


@pytest.fixture
def scored(tmp_path: Path, capture: Path, body: Surface) -> Callable[..., Score]:
    """The score of the truth delivered after it was spoiled."""

    def score(spoil: Spoil = lambda vertices, triangles: (vertices, triangles), cameras: dict[str, Any] | None = None) -> Score:
        vertices, triangles = spoil(body.vertices, body.triangles)
        mesh = o3d.geometry.TriangleMesh(o3d.utility.Vector3dVector(vertices), o3d.utility.Vector3iVector(triangles))
        o3d.io.write_triangle_mesh(str(tmp_path / "mesh.ply"), mesh)
        trimesh.Trimesh(vertices, triangles, process=False).export(str(tmp_path / "model.glb"))
        delivered = cameras or load_truth(capture / "truth", 100).cameras
        (tmp_path / "cameras.json").write_text(json.dumps({"images": delivered}))
        return score_run(tmp_path, capture, samples=15_000)

    return score


def test_the_truth_itself_scores_one(scored: Callable[..., Score]) -> None:
    """F 1.0 at every threshold, nothing off the object, no distance, every photo there, watertight, nothing turned."""
    score = scored()
    assert min(score.surface.f_score) == 1.0 and score.surface.off_object == 0.0
    assert score.surface.accuracy < 1e-6 and score.surface.completeness < 1e-6
    assert (score.cameras.registered, score.cameras.total) == (12, 12) and score.cameras.centre_max < 1e-9
    assert score.topology.watertight and score.topology.turned_edges == 0


def test_a_shift_shows_at_the_fine_thresholds_and_in_both_means(scored: Callable[..., Score]) -> None:
    """Half a percent of the diagonal sideways."""
    score = scored(lambda vertices, triangles: (vertices + np.array([0.0, 0.006, 0.0]), triangles))
    assert score.surface.f_score[0] < 0.45 and score.surface.f_score[3] > 0.999
    assert 0.001 < score.surface.accuracy < 0.006 and 0.001 < score.surface.completeness < 0.006


def test_a_cropped_model_is_incomplete_and_open(scored: Callable[..., Score], body: Surface) -> None:
    """Without its head it is precise, misses recall, and is not watertight."""
    whole = body.vertices[body.triangles].mean(axis=1)[:, 0] < 0.2
    score = scored(lambda vertices, triangles: (vertices, triangles[whole]))
    assert min(score.surface.precision) > 0.999 and score.surface.recall[3] < 0.9
    assert not score.topology.watertight and score.topology.open_edges > 20


def test_wrong_axes_are_caught(scored: Callable[..., Score]) -> None:
    """A model delivered z up beside cameras that are y up scores nothing near."""
    score = scored(lambda vertices, triangles: (vertices[:, [0, 2, 1]] * [1, 1, -1], triangles))
    assert score.surface.f_score[2] < 0.2 and score.surface.off_object > 0.2


def test_ground_that_came_along_is_off_the_object(scored: Callable[..., Score]) -> None:
    """A square metre of it."""
    corners = np.array([[-0.8, -0.8, 0.0], [0.8, -0.8, 0.0], [0.8, 0.8, 0.0], [-0.8, 0.8, 0.0]])

    def with_ground(vertices: Floats, triangles: NDArray[np.int32]) -> tuple[Floats, NDArray[np.int32]]:
        faces = len(vertices) + np.array([[0, 1, 2], [0, 2, 3]], np.int32)
        return np.vstack([vertices, corners]), np.vstack([triangles, faces])

    score = scored(with_ground)
    assert score.surface.off_object > 0.3 and not score.topology.watertight


def test_one_face_inside_out_is_counted(scored: Callable[..., Score]) -> None:
    """Its three edges run the same way as their neighbours', though the mesh stays closed."""
    score = scored(lambda vertices, triangles: (vertices, np.vstack([triangles[:1, ::-1], triangles[1:]])))
    assert score.topology.watertight and score.topology.turned_edges == 3


def test_photos_that_were_not_placed_are_missing(scored: Callable[..., Score], capture: Path) -> None:
    """Ten of twelve; the views kept out are not asked for."""
    cameras = load_truth(capture / "truth", 100).cameras
    score = scored(cameras={name: cameras[name] for name in sorted(cameras)[:10]})
    assert (score.cameras.registered, score.cameras.total) == (10, 12)


def test_a_uv_seam_is_no_hole(tmp_path: Path) -> None:
    """A box whose six sides share no vertex is closed once those at the same place are merged."""
    box = trimesh.creation.box()
    sides = trimesh.Trimesh(box.vertices[box.faces].reshape(-1, 3), np.arange(36).reshape(-1, 3), process=False)
    sides.export(str(tmp_path / "model.glb"))
    assert topology_of(load_glb(tmp_path / "model.glb")).watertight


def test_the_models_frame_does_not_matter(tmp_path: Path, capture: Path) -> None:
    """Cameras moved by a similarity are aligned back onto the truth."""
    truth = load_truth(capture / "truth", 100)
    cameras = copy.deepcopy(truth.cameras)
    for camera in cameras.values():
        camera["t"] = (2.5 * np.array(camera["t"])).tolist()
    (tmp_path / "cameras.json").write_text(json.dumps({"images": cameras}))
    similarity, errors = alignment(tmp_path, truth)
    assert similarity.scale == pytest.approx(0.4) and errors.centre_max < 1e-9


def test_views_kept_out_lie_between_the_photos(capture: Path) -> None:
    """No photo is nearer to one than a third of the distance between neighbouring photos, and none is a photo itself."""
    cameras = read_cameras(capture / "truth" / "cameras.json")
    centres = {name: -np.array(c["R"]).T @ np.array(c["t"]) for name, c in cameras.items()}
    photos = np.array([centres[name] for name, c in cameras.items() if not c.get("kept_out")])
    apart = np.linalg.norm(photos - np.roll(photos, 1, axis=0), axis=1).mean()
    for name in ("kept_000.jpg", "kept_001.jpg"):
        assert np.linalg.norm(photos - centres[name], axis=1).min() > apart / 3


def test_captures_are_rendered_once_and_again_when_a_parameter_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's name holds a key of everything that shapes the photos."""
    calls = []

    def render(capture: Capture, out: Path) -> None:
        calls.append(capture)
        out.mkdir(parents=True)

    monkeypatch.setattr(Capture, "render", render)
    assert rendered("statue", tmp_path) == rendered("statue", tmp_path)
    assert len(calls) == 1
    assert len({capture.key for capture in CAPTURES.values()}) == len(CAPTURES)
    assert Capture("animal").key != Capture("animal", cell=0.004).key


def test_an_arc_stays_on_its_side() -> None:
    """Photos of a façade are all taken from in front of it."""
    path = Orbit((0.0, 0.0, 0.9), 1.9, (0.0,), span_deg=80, start_deg=-40)
    assert all(camera.centre[0] > 1.2 for camera in [*orbit(24, 640, 480, path=path), *between(4, 24, 640, 480, path=path)])
