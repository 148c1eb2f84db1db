"""The truth scores 1; each way of spoiling it is caught."""

import copy
import json
from pathlib import Path

import numpy as np
import open3d as o3d
import pytest

from deploy.demo.capture import orbit, write_cameras, write_mesh
from deploy.demo.objects import rounded_animal
from deploy.demo.scoring import Truth, align_cameras, as_summary, load_truth, read_cameras, score_delivery, score_surface, umeyama

SAMPLES = 20_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The truth of a capture, without its photos."""
    out = tmp_path_factory.mktemp("truth")
    write_mesh(rounded_animal(cell=0.015), out / "mesh.ply")
    write_cameras(orbit(12, 640, 480), out / "cameras.json")
    return out


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    """The same, read."""
    return load_truth(folder, SAMPLES)


def _spoiled(truth: Truth, move: np.ndarray | None = None, keep: np.ndarray | None = None) -> tuple[np.ndarray, o3d.geometry.TriangleMesh]:
    mesh = copy.deepcopy(truth.mesh)
    if move is not None:
        mesh.translate(move)
    if keep is not None:
        mesh.remove_triangles_by_mask(~keep)
    from deploy.demo.scoring import _sampled

    return _sampled(mesh, SAMPLES)[0], mesh


def test_the_truth_itself_scores_one(folder: Path) -> None:
    """F 1.0 at every threshold, nothing off the object, no camera error."""
    score, errors = score_delivery(folder / "mesh.ply", folder / "cameras.json", folder)
    assert min(score.f_score) == 1.0 and score.off_object == 0.0
    assert errors.centre_max < 1e-12 and errors.rotation_max_deg < 1e-4
    assert as_summary(score, errors)["f_score"] == {"0.001": 1.0, "0.0025": 1.0, "0.005": 1.0, "0.01": 1.0}


def test_a_turned_and_scaled_delivery_scores_the_same(folder: Path, tmp_path: Path) -> None:
    """The delivered cameras tie the frames together, whatever the model's frame is."""
    mesh = o3d.io.read_triangle_mesh(str(folder / "mesh.ply"))
    R, scale, shift = o3d.geometry.get_rotation_matrix_from_xyz((0.4, -1.0, 2.0)), 3.7, np.array([1.0, 2.0, -0.5])
    mesh.vertices = o3d.utility.Vector3dVector(scale * np.asarray(mesh.vertices) @ R.T + shift)
    o3d.io.write_triangle_mesh(str(tmp_path / "mesh.ply"), mesh)
    cameras = read_cameras(folder / "cameras.json")
    for camera in cameras.values():
        turned = np.array(camera["R"]) @ R.T
        camera["t"] = (scale * np.array(camera["t"]) - turned @ shift).tolist()
        camera["R"] = turned.tolist()
    (tmp_path / "cameras.json").write_text(json.dumps({"images": cameras}))
    score, errors = score_delivery(tmp_path / "mesh.ply", tmp_path / "cameras.json", folder)
    assert min(score.f_score[1:]) > 0.999 and errors.centre_max < 1e-6


def test_a_shift_is_caught(truth: Truth) -> None:
    """Half a percent of the diagonal ruins the fine thresholds and leaves the coarse one."""
    points, mesh = _spoiled(truth, move=np.array([0.0, 0.006, 0.0]))
    score = score_surface(points, mesh, truth)
    assert score.f_score[0] < 0.45 and score.f_score[3] > 0.999


def test_a_cropped_model_loses_recall_alone(truth: Truth) -> None:
    """Without its head it is precise and incomplete."""
    centres = np.asarray(truth.mesh.vertices)[np.asarray(truth.mesh.triangles)].mean(axis=1)
    points, mesh = _spoiled(truth, keep=centres[:, 0] < 0.2)
    score = score_surface(points, mesh, truth)
    assert min(score.precision) > 0.999 and score.recall[3] < 0.9


def test_ground_left_on_the_model_is_off_the_object(truth: Truth) -> None:
    """A slab beside it counts against precision and as off the object."""
    points, mesh = _spoiled(truth)
    slab = np.column_stack([np.random.default_rng(1).uniform(-1, 1, (SAMPLES, 2)), np.full(SAMPLES, -0.001)])
    score = score_surface(np.vstack([points, slab]), mesh, truth)
    assert score.off_object > 0.3


def test_what_no_photo_saw_is_not_asked_for(truth: Truth) -> None:
    """A model without the belly and soles that the cameras never saw still has full recall."""
    below = ~truth.sample_seen
    assert 0.03 < below.mean() < 0.3
    score = score_surface(truth.seen, None, truth)
    assert min(score.f_score[2:]) > 0.99


def test_swapped_cameras_show_as_camera_error(truth: Truth) -> None:
    """Two photos with each other's pose are far from where they were taken."""
    cameras = copy.deepcopy(truth.cameras)
    cameras["view_000.jpg"], cameras["view_003.jpg"] = cameras["view_003.jpg"], cameras["view_000.jpg"]
    _, errors = align_cameras(cameras, truth.cameras, truth.diagonal)
    assert errors.centre_max > 0.5 and errors.rotation_max_deg > 45


def test_too_few_cameras_cannot_be_aligned(truth: Truth) -> None:
    """Two centres leave the turn about their line open."""
    few = dict(list(truth.cameras.items())[:2])
    with pytest.raises(ValueError, match="only 2 cameras"):
        align_cameras(few, truth.cameras, truth.diagonal)


def test_a_mirror_image_is_not_fitted() -> None:
    """The similarity is a rotation even where a reflection would fit better."""
    points = np.random.default_rng(3).normal(0, 1, (50, 3))
    assert np.linalg.det(umeyama(points, points * [1, 1, -1]).R) == pytest.approx(1)
