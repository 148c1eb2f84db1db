"""The stage from working images to cameras, on a scene that is known exactly."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from services.sfm.colmap import pycolmap
from services.sfm.ladder import Search
from services.sfm.params import Pinhole, SfmParams
from services.sfm.photos import Photo, still_camera
from services.sfm.reconstruction import refuse_too_few
from services.sfm.stage import SfmStage
from shared.contracts.manifest import StageReport
from shared.errors import PermanentError
from shared.runtime.workspace import Workspace
from tests.unit.sfm.corner_room import View, aligned_error, around, picture, write_ingest

FEW = {"max_num_features": 1024}  # enough for a small picture


def run(folder: Path, **params: Any) -> tuple[StageReport, dict[str, Any]]:
    workspace = Workspace(folder)
    report = SfmStage().run(workspace, SfmParams.model_validate(FEW | params))
    return report, json.loads((workspace.outputs / "cameras.json").read_text())["images"]


def centres(cameras: dict[str, Any]) -> np.ndarray:
    return np.array([-np.array(camera["R"]).T @ camera["t"] for camera in cameras.values()])


def truth(views: list[View], cameras: dict[str, Any]) -> np.ndarray:
    return np.array([views[int(name[1:-4])].centre for name in cameras])


def without_overlap(seed: int) -> np.ndarray:
    random, pixels = np.random.default_rng(seed), np.full((480, 640, 3), 128, np.uint8)
    for _ in range(600):
        x, y, width, height = random.integers((0, 0, 10, 10), (640, 480, 80, 80))
        pixels[y : y + height, x : x + width] = random.integers(0, 256, 3)
    return pixels


@pytest.fixture(scope="module")
def views() -> list[View]:
    """Seven views through a lens with some distortion."""
    return around(7, k=-0.05)


@pytest.fixture(scope="module")
def room(views: list[View], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with masks that cover a disc, after the stage has run."""
    folder = write_ingest(tmp_path_factory.mktemp("room"), views, original_width=960, original_height=720)
    masks = folder / "inputs" / "segmentation" / "masks"
    masks.mkdir(parents=True)
    disc = cv2.circle(np.zeros((360, 480), np.uint8), (240, 180), 100, 255, cv2.FILLED)
    cv2.imwrite(str(masks / "0000.png"), disc)
    listing = {"mode": "auto", "masks": {"v0.png": {"file": "masks/0000.png", "coverage": 0.2, "confidence": 1.0}}}
    (masks.parent / "masks.json").write_text(json.dumps(listing))
    run(folder, use_masks=False)
    return folder


@pytest.fixture(scope="module")
def cameras(room: Path) -> dict[str, Any]:
    return json.loads((room / "outputs" / "cameras.json").read_text())["images"]


def test_every_view_is_placed_where_it_was_taken(views: list[View], cameras: dict[str, Any]) -> None:
    """Centres within 0.02 % of the distance to the scene (ten times that without refined observations), rotations true: the lens is found
    from the pictures alone."""
    assert list(cameras) == [f"v{i}.png" for i in range(7)]
    assert aligned_error(centres(cameras), truth(views, cameras)).max() < 0.0002 * 3.5
    for camera in cameras.values():
        rotation = np.array(camera["R"])
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) > 0


def test_the_lens_is_told_for_the_straight_image_and_for_the_photo_as_sent(cameras: dict[str, Any], room: Path) -> None:
    """K fits the undistorted file; `distorted` is in pixels of the original, here twice as large as the working image."""
    for camera in cameras.values():
        height, width = cv2.imread(str(room / "outputs" / camera["file"])).shape[:2]
        assert (camera["width"], camera["height"]) == (width, height)
        assert camera["K"][0][0] == pytest.approx(520, rel=0.01)
        assert (camera["K"][1][0], camera["K"][2]) == (0, [0, 0, 1])
        distorted = camera["distorted"]
        assert (distorted["model"], distorted["width"], distorted["height"]) == ("SIMPLE_RADIAL", 960, 720)
        assert distorted["params"][:3] == pytest.approx([1040, 480, 360], rel=0.01)
        assert distorted["params"][3] == pytest.approx(-0.05, abs=0.005)


def test_straight_images_are_pinhole_pictures(views: list[View], cameras: dict[str, Any], room: Path) -> None:
    """What a perfect lens with this K would have seen: pixels agree with the scene rendered again, so no half pixel is lost."""
    camera = cameras["v3.png"]
    found = cv2.cvtColor(cv2.imread(str(room / "outputs" / camera["file"])), cv2.COLOR_BGR2GRAY)[:360, :480]
    straight = View(views[3].centre, views[3].R, camera["K"][0][0], 0.0, 480, 360)
    expected = cv2.cvtColor(picture(straight), cv2.COLOR_RGB2GRAY)
    moved = (camera["K"][0][2] - 240.0, camera["K"][1][2] - 180.0)
    inner = (slice(60, 300), slice(80, 400))
    expected = cv2.warpAffine(expected, np.array([[1, 0, moved[0]], [0, 1, moved[1]]]), (480, 360))
    shift, _ = cv2.phaseCorrelate(found[inner].astype(np.float64), expected[inner].astype(np.float64))
    assert np.hypot(*shift) < 0.1


def test_the_sparse_model_fits_the_straight_images(room: Path, cameras: dict[str, Any]) -> None:
    """Its cameras are pinholes with the same K, its points lie where its observations are."""
    model = pycolmap.Reconstruction(room / "outputs" / "sparse")
    assert {camera.model_name for camera in model.cameras.values()} == {"PINHOLE"}
    assert sorted(image.name for image in model.images.values()) == sorted(Path(c["file"]).name for c in cameras.values())
    assert model.compute_mean_reprojection_error() < 1.0
    camera = cameras["v2.png"]
    image = model.find_image_with_name(Path(camera["file"]).name)
    point = next(p for p in image.points2D if p.has_point3D())
    seen = np.array(camera["K"]) @ (np.array(camera["R"]) @ model.point3D(point.point3D_id).xyz + camera["t"])
    assert np.linalg.norm(seen[:2] / seen[2] - point.xy) < 3.0
    assert (room / "outputs" / "points.ply").stat().st_size > 1000


def test_masks_are_straightened_with_their_photos(room: Path, cameras: dict[str, Any]) -> None:
    """Two values, the size of the image, about as large as before; photos without a mask have none."""
    assert [camera["mask"] for camera in cameras.values()] == ["masks/0000.png", *[None] * 6]
    mask = cv2.imread(str(room / "outputs" / "masks" / "0000.png"), cv2.IMREAD_UNCHANGED)
    camera = cameras["v0.png"]
    assert mask.shape == (camera["height"], camera["width"])
    assert set(np.unique(mask)) == {0, 255}
    assert (mask > 0).sum() == pytest.approx(np.pi * 100**2, rel=0.05)


def test_the_same_photos_give_the_same_cameras(room: Path, cameras: dict[str, Any]) -> None:
    """Far within the promised 1e-4."""
    _, again = run(room, use_masks=False)
    np.testing.assert_allclose(centres(again), centres(cameras), atol=1e-9)


def test_a_given_camera_is_used_as_it_is(tmp_path: Path) -> None:
    """No refinement: K comes out as it went in, the places are better for it, and photos of a straight lens stay the files they are."""
    views = around(6)
    given = Pinhole(model="PINHOLE", params=(1040.0, 1040.0, 480.0, 360.0), width=960, height=720)
    report, cameras = run(write_ingest(tmp_path, views), camera=given)
    assert report.summary["cameras"][0]["source"] == "given"  # type: ignore[index,call-overload]
    for camera in cameras.values():
        assert np.array(camera["K"]) == pytest.approx(np.array([[520, 0, 240], [0, 520, 180], [0, 0, 1]]))
        sent = tmp_path / "inputs" / "ingest" / "photos" / Path(camera["file"]).name
        assert (tmp_path / "outputs" / camera["file"]).read_bytes() == sent.read_bytes()
    assert aligned_error(centres(cameras), truth(views, cameras)).max() < 0.0003 * 3.5


def test_a_lens_without_distortion_is_found_without_distortion(tmp_path: Path) -> None:
    """Noise of the features is not taken for a lens: k is zero, not nearly zero, and no photo is resampled."""
    _, cameras = run(write_ingest(tmp_path, around(6)))
    for camera in cameras.values():
        assert camera["distorted"]["params"][3] == 0.0
        assert (camera["width"], camera["height"], camera["K"][0][2], camera["K"][1][2]) == (480, 360, 240.0, 180.0)


def test_photos_of_two_cameras_meet_in_one_model(tmp_path: Path) -> None:
    """Landscape and portrait, wide and narrow: each size has a lens of its own."""
    views = [*around(6), *around(5, size=(360, 480), focal=600.0)]
    report, cameras = run(write_ingest(tmp_path, views))
    assert len(cameras) == 11
    focals = {(camera["width"] > camera["height"]): camera["K"][0][0] for camera in cameras.values()}
    assert focals == {True: pytest.approx(520, rel=0.02), False: pytest.approx(600, rel=0.02)}
    assert len(report.summary["cameras"]) == 2  # type: ignore[arg-type]


def test_a_photo_of_something_else_is_left_out(tmp_path: Path, views: list[View]) -> None:
    """One stranger costs that photo only, and is named."""
    pictures = [picture(view) for view in views]
    pictures[3] = without_overlap(5)[:360, :480]
    report, cameras = run(write_ingest(tmp_path, views, pictures))
    assert "v3.png" not in cameras and len(cameras) == 6
    assert {verdict.name: verdict.reason for verdict in report.images if verdict.status == "dropped"} == {"v3.png": "NOT_REGISTERED"}
    assert [warning.code for warning in report.warnings] == ["NOT_REGISTERED"]


def test_photos_without_overlap_fail_with_a_verdict_on_each(tmp_path: Path) -> None:
    """TOO_FEW_REGISTERED, with a hint, in seconds."""
    views = [View(np.zeros(3), np.eye(3), 500.0, 0.0, 640, 480)] * 6
    with pytest.raises(PermanentError) as failed:
        run(write_ingest(tmp_path, views, [without_overlap(seed) for seed in range(6)]))
    assert failed.value.code == "TOO_FEW_REGISTERED" and "overlap" in failed.value.hint
    report = failed.value.report
    assert isinstance(report, StageReport)
    assert [(verdict.status, verdict.reason) for verdict in report.images] == [("dropped", "NOT_REGISTERED")] * 6
    assert [warning.code for warning in report.warnings] == ["NOT_REGISTERED"]


def test_a_tripod_without_masks_is_the_reason_that_is_told(tmp_path: Path) -> None:
    """Where segmentation saw that the camera stood still, the hint is masks, not more photos."""
    views = [View(np.zeros(3), np.eye(3), 500.0, 0.0, 640, 480)] * 6
    root = write_ingest(tmp_path, views, [without_overlap(seed) for seed in range(6)])
    folder = root / "inputs" / "segmentation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "masks.json").write_text(json.dumps({"mode": "none", "still_camera": True, "masks": {}}))
    with pytest.raises(PermanentError, match="stood still") as failed:
        run(root)
    assert failed.value.code == "TOO_FEW_REGISTERED" and "`turntable`" in failed.value.hint


def refused(folder: Path, **listing: Any) -> PermanentError:
    """What six photos of a camera that stood still are refused with, of which none could be placed. `listing`: what masks.json says."""
    (folder / "masks.json").write_text(json.dumps({"still_camera": True, "masks": {}} | listing))
    photos = [Photo(f"{i}.jpg", folder / f"{i}.jpg", 640, 480, 640, 480) for i in range(6)]
    search = Search(photos, [], SfmParams(), folder, lambda done, message: None, stood_still=True)
    with pytest.raises(PermanentError) as failed:
        refuse_too_few(search, still_camera(folder))
    return failed.value


@pytest.mark.parametrize("mode", ["turntable", "auto"])
def test_masks_that_could_not_be_trusted_are_not_advised_again(tmp_path: Path, mode: str) -> None:
    """Segmentation looked for them and found none: then a plain backdrop helps, the mode does not."""
    error = refused(tmp_path, mode=mode)
    assert "stood still" in str(error) and "plain backdrop" in error.hint and "`turntable`" not in error.hint


def test_where_nothing_moved_the_advice_is_to_walk(tmp_path: Path) -> None:
    """No masks help photos that all show the same view."""
    error = refused(tmp_path, mode="turntable", same_view=True)
    assert "nothing moved" in str(error) and "Walk around" in error.hint and "back" not in error.hint


def test_a_camera_that_turns_on_the_spot_is_told_so(tmp_path: Path) -> None:
    """Photos of one scene by pure rotations: every pair fits a homography, and no camera can be placed."""
    views, wide = [View(np.zeros(3), np.eye(3), 500.0, 0.0, 640, 480)] * 6, cv2.resize(without_overlap(3), (1920, 1440))
    K = np.array([[700.0, 0, 320], [0, 700, 240], [0, 0, 1]])
    far = np.array([[2100.0, 0, 960], [0, 2100, 720], [0, 0, 1]])
    turns = [cv2.Rodrigues(np.array([0.02 * (i % 2), 0.03 * i - 0.08, 0.0]))[0] for i in range(6)]
    pictures = [cv2.warpPerspective(wide, far @ turn @ np.linalg.inv(K), (640, 480), flags=cv2.WARP_INVERSE_MAP) for turn in turns]
    with pytest.raises(PermanentError) as failed:
        run(write_ingest(tmp_path, views, pictures))
    assert "another place" in failed.value.hint and "rest" not in failed.value.message


def test_opencv_can_write_pictures_beside_pycolmap() -> None:
    """pycolmap's own zlib must not take the place of OpenCV's: the wrong order of imports aborts the process here."""
    code = (
        "import services.sfm.colmap, cv2, numpy as np;"
        "assert cv2.imencode('.png', np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8))[0]"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def truth_of_fountain(folder: Path, cameras: dict[str, Any]) -> np.ndarray:
    return np.array([[float(v) for v in (folder / "cameras" / f"{name}.camera").read_text().splitlines()[7].split()] for name in cameras])


def test_real_cameras_are_found_within_a_centimetre(tmp_path: Path, real_photos: Path) -> None:
    """fountain-p11 at 1000 px: every photo placed, centres mean ≤ 7 mm and max ≤ 11 mm, a thousandth of the distance. Most comes from
    the principal point, which is truly 15 px off centre."""
    ingest = tmp_path / "inputs" / "ingest"
    (ingest / "photos").mkdir(parents=True)
    photos = []
    for path in sorted((real_photos / "fountain-p11").glob("*.jpg")):
        cv2.imwrite(str(ingest / "photos" / f"{path.stem}.png"), cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_2))
        photos.append({"name": path.name, "file": f"photos/{path.stem}.png", "width": 1536, "height": 1024})
    (ingest / "photos.json").write_text(json.dumps({"photos": photos}))
    _, cameras = run(tmp_path, max_image_size=1000, max_num_features=2048, max_output_size=800)
    assert len(cameras) == 11
    error_mm = 1000 * aligned_error(centres(cameras), truth_of_fountain(real_photos / "fountain-p11", cameras))
    assert error_mm.mean() <= 7 and error_mm.max() <= 11, error_mm
