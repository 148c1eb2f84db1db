"""Captures that went wrong, through the stages by hand: each ends with a code, the photos it is about, and what to do.

Small photos rendered from code; no servers, and no dense step where the verdict does not need one.
"""

from pathlib import Path

import pytest

from shared.contracts.manifest import Manifest
from tests.support.by_hand import report_of, run_job
from tests.support.hard_captures import brighter, encoded, mirror_like, shaken, turntable, two_places, walk_around

CAMERAS_ONLY = ("ingest", "segmentation", "sfm", "export")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def warnings_of(manifests: list[Manifest]) -> dict[str, str]:
    """Messages by code, of all steps."""
    return {warning.code: warning.message for manifest in manifests for warning in manifest.report.warnings}


def hints_of(report: dict) -> dict[str, str]:
    """Hints by code, of the verdict's reasons."""
    return {reason["code"]: reason["hint"] for reason in report["reasons"]}


def test_a_good_capture_is_not_doubted(tmp_path: Path) -> None:
    """All photos placed, no warning from any step, verdict pass."""
    report = report_of(run_job(encoded(walk_around()), tmp_path, CAMERAS_ONLY))
    assert (report["verdict"], report["reasons"], report["warnings"]) == ("pass", [], [])
    assert {photo["status"] for photo in report["images"]["photos"]} == {"registered"}


def test_blurred_and_burnt_photos_are_named(tmp_path: Path) -> None:
    """A shaken photo is used and named, one beyond use is dropped with its reason, burnt ones are named; the verdict warns."""
    names = list(walk_around(14))
    photos = shaken(shaken(walk_around(14), names[2:3], 7), names[4:5], 41)
    manifests = run_job(encoded(brighter(photos, names[7:9], 3.0)), tmp_path, CAMERAS_ONLY)
    report, said = report_of(manifests), warnings_of(manifests)
    assert names[2] in said["BLURRED_PHOTOS"] and names[5] not in said["BLURRED_PHOTOS"]
    assert names[7] in said["OVEREXPOSED_PHOTOS"] and names[8] in said["OVEREXPOSED_PHOTOS"]
    assert report["verdict"] == "warn"
    assert "tripod" in hints_of(report)["BLURRED_PHOTOS"] and "exposure" in hints_of(report)["OVEREXPOSED_PHOTOS"]
    by_name = {photo["name"]: photo for photo in report["images"]["photos"]}
    assert by_name[names[4]]["reason"] == "TOO_BLURRED"
    assert by_name[names[4]]["sharpness"] < by_name[names[2]]["sharpness"] < 0.3 * by_name[names[0]]["sharpness"]


def test_too_few_photos_say_what_became_of_each(tmp_path: Path) -> None:
    """Two good ones and two that are no photos: the error names them and asks for three that open."""
    good = dict(list(encoded(walk_around()).items())[:2])
    (failed,) = run_job(good | {"notes.jpg": b"no photo", "copy.jpg": good["view_000.jpg"]}, tmp_path)
    assert failed.error is not None and failed.error.code == "TOO_FEW_IMAGES"
    assert "notes.jpg" in failed.error.message and "copy.jpg" in failed.error.message
    assert "at least 3" in failed.error.hint
    assert [verdict.reason for verdict in failed.report.images] == [None, None, "NOT_AN_IMAGE", "DUPLICATE"]


def test_photos_that_do_not_overlap_are_named(tmp_path: Path) -> None:
    """Half of the photos are of another place: one group is reconstructed, the other named, and the verdict warns."""
    names = list(two_places())
    manifests = run_job(encoded(two_places()), tmp_path, CAMERAS_ONLY)
    report, said = report_of(manifests), warnings_of(manifests)
    lost = {photo["name"] for photo in report["images"]["dropped"]}
    assert lost in (set(names[:6]), set(names[6:]))
    assert all(name in said["NOT_REGISTERED"] for name in lost)
    assert "2 groups" in said["SEVERAL_COMPONENTS"]
    assert report["verdict"] != "pass"
    assert {"FEW_REGISTERED", "SEVERAL_COMPONENTS"} <= set(hints_of(report))
    assert "overlap" in hints_of(report)["SEVERAL_COMPONENTS"]


def test_an_object_that_turns_gets_masks_and_is_placed(tmp_path: Path) -> None:
    """Before a textured wall: unasked, every photo registers and nothing is doubted."""
    photos = encoded(turntable())
    report = report_of(run_job(photos, tmp_path, CAMERAS_ONLY))
    assert report["images"]["registered"] == len(photos)
    assert report["verdict"] == "pass", report["reasons"]


def test_an_object_that_turns_without_masks_fails_at_once_and_says_how_to_mend_it(tmp_path: Path) -> None:
    """No attempt at placing photos before a background that stands still, but an error that names them and the option that helps."""
    photos = encoded(turntable())
    manifests = run_job(photos, tmp_path, CAMERAS_ONLY, {"segmentation": {"mode": "none"}})
    (warning,) = manifests[1].report.warnings
    assert warning.code == "MOVING_OBJECT" and set(warning.photos) == set(photos) and "`turntable`" in warning.hint
    last = manifests[-1]
    assert last.error is not None and last.error.code == "TOO_FEW_REGISTERED"
    assert "stood still" in last.error.message and "`turntable`" in last.error.hint
    assert {photo.reason for photo in last.report.images} == {"NOT_REGISTERED"} and len(last.report.images) == len(photos)
    assert last.report.summary["attempts"] == []


def test_a_mirror_is_told_from_a_matt_object(tmp_path: Path) -> None:
    """Its surroundings place every camera; that the object shows no surface of its own is said, with what to do, and the verdict fails."""
    report = report_of(run_job(encoded(mirror_like()), tmp_path, CAMERAS_ONLY))
    assert report["images"]["registered"] == 12
    assert report["verdict"] == "fail"
    assert "spray" in hints_of(report)["MIRROR_LIKE"]
    (warning,) = report["warnings"]
    assert len(warning["photos"]) >= 6 and warning["photos"][0] in warning["message"]
