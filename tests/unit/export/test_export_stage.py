"""The whole export stage on a small made model, and what its report says of good and bad captures."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open3d as o3d
import pytest

from services.export.params import ExportParams
from services.export.report import build_report, image_facts
from services.export.stage import ExportStage
from services.export.verdict import judge, verdict_of
from shared.contracts.manifest import EXPANDED, ImageVerdict, Manifest, StageReport
from shared.contracts.request import JobRequest
from shared.runtime.workspace import Workspace

EVERYTHING = ["model.glb", "model_obj.zip", "mesh.ply", "pointcloud.ply", "preview.png", "cameras.json", "report.json"]


def request(outputs: list[str], photos: int = 12) -> dict[str, Any]:
    images = [{"name": f"{i:02d}.jpg", "url": "http://example.test/x"} for i in range(photos)]
    asked = {"pipeline": "photogrammetry", "preset": "balanced", "images": images, "outputs": outputs}
    return {"job_id": "made", "created_at": "2025-01-01T00:00:00Z", **asked}


def workspace(root: Path, outputs: list[str], meshed: bool = True) -> Workspace:
    """A ball seen by twelve cameras, as the earlier stages would have left it."""
    (root / "request.json").write_text(json.dumps(request(outputs)))
    for stage in ("sfm", "mvs", "postprocess"):
        (root / "inputs" / stage).mkdir(parents=True)
    camera = {"R": np.eye(3).tolist(), "t": [0, 0, 5], "K": [[100, 0, 50], [0, 100, 50], [0, 0, 1]], "width": 100, "height": 100}
    images = {f"{i:02d}.jpg": {**camera, "file": "x", "mask": None, "distorted": None} for i in range(12)}
    (root / "inputs" / "sfm" / "cameras.json").write_text(json.dumps({"images": images}))
    ball = o3d.geometry.TriangleMesh.create_sphere(1.0, 20)
    cloud = o3d.geometry.PointCloud(ball.vertices)
    cloud.normals, cloud.colors = ball.vertices, ball.vertices
    o3d.io.write_point_cloud(str(root / "inputs" / "mvs" / "pointcloud.ply"), cloud)
    if meshed:
        post = root / "inputs" / "postprocess"
        vertices, faces = np.asarray(ball.vertices), np.asarray(ball.triangles).astype(np.int32)
        uv = (vertices[faces][..., :2] * 0.45 + 0.5).astype(np.float32)
        np.savez(post / "mesh.npz", vertices=vertices, faces=faces, uv=uv, normals=vertices)
        cv2.imwrite(str(post / "texture.png"), np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
        placed = {"scale": 0.5, "R": np.eye(3).tolist(), "t": [0, 0.5, 0], "source": "none", "isolated": True}
        (post / "similarity.json").write_text(json.dumps(placed))
        o3d.io.write_point_cloud(str(post / "pointcloud.ply"), cloud)
    return Workspace(root)


def test_everything_asked_for_is_written(tmp_path: Path) -> None:
    """All seven artifacts, in one frame."""
    report = ExportStage().run(workspace(tmp_path, EVERYTHING), ExportParams(preview_size=800))
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == sorted(EVERYTHING)
    mesh = o3d.io.read_triangle_mesh(str(tmp_path / "outputs" / "mesh.ply"))
    cloud = o3d.io.read_point_cloud(str(tmp_path / "outputs" / "pointcloud.ply"))
    for found in (mesh, cloud):
        np.testing.assert_allclose(found.get_min_bound(), [-0.5, 0, -0.5], atol=1e-5)
    assert report.job_report is not None
    assert json.loads((tmp_path / "outputs" / "report.json").read_text()) == report.job_report


def test_only_what_was_asked_for_is_written(tmp_path: Path) -> None:
    """report.json comes always, the rest by name."""
    ExportStage().run(workspace(tmp_path, ["cameras.json"]), ExportParams())
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["cameras.json", "report.json"]


def test_a_cloud_alone_stays_in_its_own_frame(tmp_path: Path) -> None:
    """Without postprocess: cloud, cameras and report, nothing moved."""
    ExportStage().run(workspace(tmp_path, EVERYTHING, meshed=False), ExportParams())
    written = sorted(path.name for path in (tmp_path / "outputs").iterdir())
    assert written == ["cameras.json", "pointcloud.ply", "report.json"]
    cloud = o3d.io.read_point_cloud(str(tmp_path / "outputs" / "pointcloud.ply"))
    np.testing.assert_allclose(cloud.get_max_bound(), [1, 1, 1], atol=0.02)
    cameras = json.loads((tmp_path / "outputs" / "cameras.json").read_text())["images"]
    assert cameras["00.jpg"]["t"] == pytest.approx([0, 0, 5])


def manifest(stage: str, **report: Any) -> Manifest:
    return Manifest(
        job_id="made", step=stage, position=0, stage=stage, stage_version="1", attempt="a", seconds=1.5, report=StageReport(**report)
    )


def test_the_report_accounts_for_every_photo() -> None:
    """Refused by ingest, not placed by sfm, registered: each is counted once and named with its reason."""
    asked = JobRequest.model_validate(request(EVERYTHING, photos=4))
    refused = ImageVerdict(name="00.jpg", status="dropped", reason="TOO_BLURRED")
    steps = [manifest("ingest", images=(refused,)), manifest("sfm", summary={"reprojection_error_px": 0.6, "track_length": 4.0})]
    report = build_report(asked, steps, dict.fromkeys(["02.jpg", "03.jpg"]), {"source": "none"}, {"points": 10})
    images = report["images"]
    assert (images["submitted"], images["used"], images["registered"]) == (4, 3, 2)
    assert [(photo["name"], photo["reason"]) for photo in images["dropped"]] == [("00.jpg", "TOO_BLURRED"), ("01.jpg", "NOT_REGISTERED")]
    assert all(photo["hint"] for photo in images["dropped"])
    assert report["cameras"]["reprojection_error_px"] == 0.6
    assert report["stages"][0]["seconds"] == 1.5
    assert report["verdict"] == "warn"


def test_the_report_counts_the_photos_of_an_archive() -> None:
    """Not the archive; one that could not be opened is a photo that was dropped."""
    asked = JobRequest.model_validate(request(EVERYTHING, photos=3))
    verdicts = [
        ImageVerdict(name="00.jpg", status=EXPANDED),
        ImageVerdict(name="b.jpg", status="accepted", source="00.jpg"),
        ImageVerdict(name="a.jpg", status="accepted", source="00.jpg"),
        ImageVerdict(name="02.jpg", status="dropped", reason="CORRUPT_ARCHIVE"),
    ]
    images = image_facts(asked, [manifest("ingest", images=tuple(verdicts))], ["01.jpg", "a.jpg", "b.jpg"])
    assert [photo["name"] for photo in images["photos"]] == ["b.jpg", "a.jpg", "01.jpg", "02.jpg"]
    assert (images["submitted"], images["used"], images["registered"]) == (4, 3, 3)


def test_the_model_s_own_shape_is_judged(tmp_path: Path) -> None:
    """A ball stands out from every plane, by a seventh of its box's diagonal; the report says so, and whether a scene was asked for."""
    step = manifest("postprocess", summary={"isolated": False, "isolation": "auto"})
    made = workspace(tmp_path, EVERYTHING)
    (tmp_path / "steps.json").write_text(json.dumps([step.model_dump(mode="json")]))
    report = ExportStage().run(made, ExportParams(preview_size=800)).job_report
    assert report is not None
    mesh = report["mesh"]
    assert isinstance(mesh, dict) and (mesh["isolation"], mesh["relief"]) == ("auto", pytest.approx(0.144, abs=0.01))


def spread(azimuths: float, directions: float = 60.0, baseline: float = 0.5) -> dict[str, float]:
    return {"azimuth_span_deg": azimuths, "direction_span_deg": directions, "baseline": baseline}


@pytest.mark.parametrize(
    "coverage, isolated, isolation",
    [(spread(343), True, "auto"), (spread(250), False, "auto"), (spread(76), False, "scene"), (spread(0, 2, 0.4), False, "auto")],
)
def test_orbits_facades_and_flights_have_enough_sides(coverage: dict[str, float], isolated: bool, isolation: str) -> None:
    """All around an object, along a wall that was asked for as a scene, and straight down in parallel lines."""
    assert judge({**GOOD, "coverage": coverage, "mesh": {"isolated": isolated, "isolation": isolation, "relief": 0.02}}) == []


GOOD: dict[str, Any] = {
    "images": {"submitted": 24, "used": 24, "registered": 24},
    "cameras": {"reprojection_error_px": 0.5, "track_length": 5.0},
    "fidelity": {"held_out_psnr_db": 30.0},
    "texture": {"seen": 0.9},
    "omissions": {"gap_below": 0.001, "lost_points": 0.0004, "middle_covered": 0.89},
}


def test_a_good_capture_passes() -> None:
    """No reason, no warning."""
    assert judge(GOOD) == []
    assert verdict_of([]) == "pass"


@pytest.mark.parametrize(
    ("change", "code", "verdict"),
    [
        ({"images": {"submitted": 16, "used": 16, "registered": 15}}, "FEW_REGISTERED", "warn"),
        ({"images": {"submitted": 16, "used": 16, "registered": 12}}, "FEW_REGISTERED", "warn"),
        ({"images": {"submitted": 30, "used": 30, "registered": 13}}, "FEW_REGISTERED", "fail"),
        ({"images": {"submitted": 6, "used": 6, "registered": 6}}, "FEW_IMAGES", "warn"),
        ({"cameras": {"reprojection_error_px": 2.5, "track_length": 5.0}}, "HIGH_REPROJECTION_ERROR", "warn"),
        ({"cameras": {"reprojection_error_px": 0.5, "track_length": 2.1}}, "SHORT_TRACKS", "warn"),
        ({"fidelity": {"held_out_psnr_db": 15.0}}, "LOW_FIDELITY", "warn"),
        ({"fidelity": {"held_out_psnr_db": 5.0}}, "LOW_FIDELITY", "fail"),
        ({"texture": {"seen": 0.3}}, "MUCH_UNSEEN", "warn"),
        ({"omissions": {"gap_below": 0.33, "lost_points": 0.003, "middle_covered": None}}, "MISSING_PARTS", "warn"),
        ({"omissions": {"gap_below": 0.0, "lost_points": 0.05, "middle_covered": None}}, "MISSING_PARTS", "warn"),
        ({"omissions": {"gap_below": None, "lost_points": None, "middle_covered": 0.6}}, "MISSING_PARTS", "warn"),
        ({"omissions": {"gap_below": None, "lost_points": None, "middle_covered": 0.36}}, "MISSING_PARTS", "fail"),
        ({"coverage": spread(165), "mesh": {"isolated": True}}, "ONE_SIDED", "warn"),
        ({"coverage": spread(66), "mesh": {"isolated": False, "isolation": "auto"}}, "ONE_SIDED", "warn"),
        ({"mesh": {"isolated": False, "relief": 0.0004}}, "FLAT_MODEL", "warn"),
        ({"mesh": {"isolated": True, "looked_through": 0.09}}, "CONTRADICTED_SURFACE", "warn"),
        ({"mesh": {"isolated": True, "looked_through": 0.23}}, "CONTRADICTED_SURFACE", "fail"),
        ({"coverage": spread(0, 1.0, 0.01), "mesh": {"isolated": False}}, "CAMERA_DID_NOT_MOVE", "fail"),
    ],
)
def test_each_doubt_has_its_reason_and_hint(change: dict[str, Any], code: str, verdict: str) -> None:
    """One bad number is one reason, with what to do about it."""
    reasons = judge({**GOOD, **change})
    assert [reason.code for reason in reasons] == [code]
    assert reasons[0].hint
    assert verdict_of(reasons) == verdict


def dropped_images(useless: int, of: int, placed: int) -> dict[str, Any]:
    lost = [{"name": f"{i}.jpg", "reason": "TOO_DARK", "hint": "Use more light."} for i in range(useless)]
    return {**GOOD, "images": {"submitted": of, "used": of - useless, "registered": placed, "dropped": lost}}


def test_many_photos_that_are_useless_are_a_reason() -> None:
    """Named by what is wrong with them, with what to do; a few are none."""
    (reason,) = judge(dropped_images(8, 24, 16))
    assert (reason.code, reason.level, reason.hint) == ("PHOTOS_DROPPED", "warn", "Use more light.")
    assert reason.message.startswith("8 of 24") and "TOO_DARK: 0.jpg" in reason.message
    assert judge(dropped_images(6, 24, 18)) == []


def test_the_photos_that_count_are_those_that_were_placed() -> None:
    """Fourteen were accepted, eleven have a place: the model is made from few."""
    reasons = {reason.code: reason for reason in judge(dropped_images(0, 14, 11))}
    assert "11 photos" in reasons["FEW_IMAGES"].message


def warned(code: str) -> dict[str, Any]:
    return {"warnings": [{"code": code, "message": "of 3.jpg", "hint": "do this", "photos": ["3.jpg"]}]}


@pytest.mark.parametrize(
    ("code", "psnr", "verdict"),
    [
        ("BLURRED_PHOTOS", 30.0, "warn"),
        ("OVEREXPOSED_PHOTOS", None, "warn"),
        ("SEVERAL_COMPONENTS", 30.0, "warn"),
        ("MIRROR_LIKE", None, "fail"),
        ("MOVING_OBJECT", 12.0, "fail"),
        ("MIRROR_LIKE", 26.0, "warn"),
    ],
)
def test_a_warning_of_a_step_is_a_reason(code: str, psnr: float | None, verdict: str) -> None:
    """What a step doubted, the verdict doubts; a mirror is fatal unless the model predicts photos that were kept out."""
    reasons = judge({**GOOD, "fidelity": {"held_out_psnr_db": psnr}, **warned(code)})
    assert code in [reason.code for reason in reasons]
    assert verdict_of(reasons) == verdict


def test_the_same_doubt_is_said_once() -> None:
    """A check here knows more than the step's warning of the same thing."""
    few = {"images": {"submitted": 16, "used": 16, "registered": 15, "dropped": [{"name": "3.jpg", "reason": "NOT_REGISTERED"}]}}
    (reason,) = judge({**GOOD, **few, **warned("NOT_REGISTERED")})
    assert reason.code == "FEW_REGISTERED"
    assert "3.jpg" in reason.message


def test_photos_with_little_surface_are_named_worst_first() -> None:
    """Where most photos confirm little of each other, a caller learns which."""
    photos = [{"name": "a.jpg", "surface": 0.2}, {"name": "b.jpg", "surface": 0.1}, {"name": "c.jpg", "surface": 0.4}]
    (reason,) = judge({**GOOD, "images": {**GOOD["images"], "photos": photos}, **warned("SPARSE_SURFACE")})
    assert reason.code == "SPARSE_SURFACE"
    assert "b.jpg, a.jpg." in reason.message


def test_the_report_has_the_figures_of_every_photo() -> None:
    """What ingest measured and what the dense step confirmed, also of photos that were dropped."""
    asked = JobRequest.model_validate(request(EVERYTHING, photos=3))
    verdicts = (
        ImageVerdict(name="00.jpg", status="dropped", reason="TOO_BLURRED", figures={"sharpness": 0.3}),
        ImageVerdict(name="01.jpg", status="accepted", figures={"sharpness": 40.0}),
    )
    steps = [manifest("ingest", images=verdicts), manifest("mvs", summary={"completeness_per_view": {"01.jpg": 0.7}})]
    photos = build_report(asked, steps, dict.fromkeys(["01.jpg"]), {"source": "none"}, {})["images"]["photos"]
    assert photos == [
        {"name": "00.jpg", "status": "dropped", "reason": "TOO_BLURRED", "sharpness": 0.3},
        {"name": "01.jpg", "status": "registered", "reason": None, "sharpness": 40.0, "surface": 0.7},
        {"name": "02.jpg", "status": "dropped", "reason": "NOT_REGISTERED"},
    ]


def test_the_report_says_what_each_step_cost() -> None:
    """Seconds, peak memory, tries, engines and whether it had to be made smaller, of every step that ran."""
    asked = JobRequest.model_validate(request(EVERYTHING))
    step = manifest("mvs", engines={"numba": "1"}).model_copy(update={"peak_memory_bytes": 1 << 30, "tries": 2, "reduction": 1})
    (facts,) = build_report(asked, [step], {}, {"source": "none"}, {})["stages"]
    assert (facts["seconds"], facts["peak_memory_bytes"], facts["engines"]) == (1.5, 1 << 30, {"numba": "1"})
    assert (facts["attempts"], facts["reduction"]) == (2, 1)


def test_numbers_that_are_not_known_are_no_doubt() -> None:
    """A stage that told nothing is not held against the model."""
    unknown = {"images": GOOD["images"], "cameras": {"reprojection_error_px": None, "track_length": None}}
    assert judge(unknown) == []
