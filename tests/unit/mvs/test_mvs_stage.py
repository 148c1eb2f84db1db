"""The stage as the runtime calls it: folders in, folders out."""

import json
from pathlib import Path

import numpy as np
import open3d as o3d
import pytest

from services.mvs.params import MvsParams
from services.mvs.stage import MvsStage, reduced
from shared.contracts.manifest import StageReport
from shared.errors import PermanentError
from shared.runtime.workspace import Workspace
from tests.unit.mvs.small_scene import MIDDLE, RADIUS, write_sfm_outputs

PARAMS = MvsParams(levels=(2, 1), min_speckle_px=20)


def _workspace(root: Path, sfm_folder: Path) -> Workspace:
    (root / "inputs").mkdir(parents=True)
    (root / "inputs" / "sfm").symlink_to(sfm_folder)
    return Workspace(root)


def test_the_cloud_lies_on_the_surface(sfm_folder: Path, tmp_path: Path) -> None:
    """Nine in ten points are within one percent of the sphere or the ground, and normals point out of it."""
    workspace = _workspace(tmp_path / "a", sfm_folder)
    report = MvsStage().run(workspace, PARAMS)
    cloud = o3d.io.read_point_cloud(str(workspace.outputs / "pointcloud.ply"))
    points, normals = np.asarray(cloud.points), np.asarray(cloud.normals)
    from_sphere = np.linalg.norm(points - MIDDLE, axis=1) - RADIUS
    distance = np.minimum(np.abs(from_sphere), np.abs(points[:, 2]))
    assert report.summary["points"] == len(points) > 5000
    assert np.percentile(distance, 90) < 0.01
    on_sphere = (np.abs(from_sphere) < 0.01) & (points[:, 2] > 0.1)
    assert (((points - MIDDLE) / RADIUS * normals).sum(axis=1)[on_sphere] > 0.8).mean() > 0.95
    assert cloud.has_colors()


def test_outputs_are_what_the_next_stages_read(sfm_folder: Path, tmp_path: Path) -> None:
    """A depth map per view that decodes to depth, and roi.json with the orbit and the plane."""
    workspace = _workspace(tmp_path / "a", sfm_folder)
    report = MvsStage().run(workspace, PARAMS)
    roi = json.loads((workspace.outputs / "roi.json").read_text())
    depth = np.load(workspace.outputs / "depth" / "p03.npz")
    low, high = depth["range"]
    w = low + (high - low) * depth["inverse_depth"].astype(float)
    assert roi["orbit"] is True and roi["support_plane"] is not None
    assert len(list((workspace.outputs / "depth").iterdir())) == 10
    assert depth["inverse_depth"].shape == (144, 192) and depth["inverse_depth"].dtype == np.float16
    assert 1.6 < 1 / np.nanmedian(w) < 2.6
    assert set(report.summary["completeness_per_view"]) == {f"p{i:02d}.png" for i in range(10)}  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_bytes(sfm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads compute."""
    clouds = []
    for threads in ("1", "2"):
        monkeypatch.setenv("MESHWORK_THREADS", threads)
        workspace = _workspace(tmp_path / threads, sfm_folder)
        MvsStage().run(workspace, PARAMS)
        clouds.append((workspace.outputs / "pointcloud.ply").read_bytes())
    assert clouds[0] == clouds[1]


def test_nothing_to_match_is_no_surface(tmp_path: Path) -> None:
    """Blank photos end the job with a code, a hint and the numbers so far."""
    write_sfm_outputs(tmp_path / "sfm", 6, textured=False)
    with pytest.raises(PermanentError) as caught:
        MvsStage().run(_workspace(tmp_path / "a", tmp_path / "sfm"), PARAMS)
    assert caught.value.code == "NO_SURFACE"
    assert "texture" in caught.value.hint
    assert isinstance(caught.value.report, StageReport)


def test_a_reduced_try_has_half_the_pixels_along_each_side() -> None:
    """After running out of memory."""
    assert reduced(MvsParams(max_image_size=1600), 1).max_image_size == 800
    assert reduced(PARAMS, 0) is PARAMS
