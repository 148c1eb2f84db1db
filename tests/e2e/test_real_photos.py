"""Photographs that people took, through the mesh, over HTTP alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deploy.demo.client import fetch, follow
from deploy.demo.receiver import CallerBackend
from deploy.demo.scoring import umeyama

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def reconstruct(
    api: httpx.Client, caller: Callable[[Path], CallerBackend], tmp_path: Path
) -> Callable[..., tuple[dict[str, Any], dict[str, Path]]]:
    """Sends a folder of photos; the job as it ended, and its files."""

    def run(photos: Path, **request: object) -> tuple[dict[str, Any], dict[str, Path]]:
        body = {"image_urls": caller(photos).photo_urls(), "preset": "fastest", **request}
        return ended(api, api.post("/api/v1/reconstruct", json=body), tmp_path)

    return run


def ended(api: httpx.Client, answer: httpx.Response, folder: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The job of a 202 as it ended, and its files."""
    job = list(follow(api, answer.raise_for_status().json()["job_id"]))[-1]
    assert job["status"] == "completed", job["error"]
    return job, fetch(job, folder / job["job_id"])


def registered(job: dict[str, Any]) -> int:
    return sum(image["status"] == "registered" for image in job["images"])


def centre_errors_m(cameras_file: Path, truth: Path) -> np.ndarray:
    """Distances in metres between delivered and true camera centres of fountain-p11 after similarity alignment."""
    cameras = json.loads(cameras_file.read_text())["images"]
    delivered, true = [], []
    for name, camera in sorted(cameras.items()):
        delivered.append(-np.array(camera["R"]).T @ np.array(camera["t"]))
        true.append([float(value) for value in (truth / f"{name}.camera").read_text().split("\n")[7].split()])
    similarity = umeyama(np.array(delivered), np.array(true))
    return np.linalg.norm(similarity(np.array(delivered)) - np.array(true), axis=1)


def test_fountain_cameras_are_where_they_were(
    reconstruct: Callable[..., Any], api: httpx.Client, real_photos: Path, tmp_path: Path
) -> None:
    """All 11 register; centres within 10 mm on average and 15 mm at most without calibration (seen elsewhere: 6.0 and 8.9).

    A retry with the camera given takes the photos over and comes within 5 mm on average (seen elsewhere: 2.4).
    """
    photos = real_photos / "fountain-p11"
    job, files = reconstruct(photos, pipeline="pointcloud")
    errors = centre_errors_m(files["cameras.json"], photos / "cameras")
    assert registered(job) == 11
    assert errors.mean() <= 0.010 and errors.max() <= 0.015

    body = {"options": {"sfm": {"camera": calibration(photos)}}, "outputs": ["cameras.json"]}
    again, files = ended(api, api.post(f"/api/v1/jobs/{job['job_id']}/retry", json=body), tmp_path)
    errors = centre_errors_m(files["cameras.json"], photos / "cameras")
    assert registered(again) == 11
    assert errors.mean() <= 0.005
    assert again["parent"] == job["job_id"]
    assert [stage["name"] for stage in again["report"]["stages"] if stage["reused_from"]] == ["ingest", "segmentation"]


def calibration(photos: Path) -> dict[str, Any]:
    """The true camera as an option of sfm."""
    rows = [[float(value) for value in line.split()] for line in (photos / "cameras" / "0000.jpg.camera").read_text().split("\n")[:3]]
    # The file counts pixel centres from 0; COLMAP, and options.sfm.camera, from 0.5.
    intrinsics = [rows[0][0], rows[1][1], rows[0][2] + 0.5, rows[1][2] + 0.5]
    return {"model": "PINHOLE", "params": intrinsics, "width": 3072, "height": 2048}


def test_every_photo_of_a_facade_registers(reconstruct: Callable[..., Any], real_photos: Path) -> None:
    """sceaux-castle: 11 of 11, as a point cloud."""
    job, files = reconstruct(real_photos / "sceaux-castle", pipeline="pointcloud")
    assert registered(job) == 11
    assert set(files) == {"pointcloud.ply", "cameras.json", "report.json"}


def test_weak_overlap_is_completed_and_said(reconstruct: Callable[..., Any], real_photos: Path) -> None:
    """banana: at least 12 of 16 register, the others are NOT_REGISTERED, and the verdict warns."""
    job, _ = reconstruct(real_photos / "banana" / "images")
    assert registered(job) >= 12
    assert {image["reason"] for image in job["images"] if image["status"] != "registered"} <= {"NOT_REGISTERED"}
    assert job["report"]["verdict"] == "warn"
