"""What webhooks say."""

import json

import pytest

from gateway.database import jobs
from gateway.database.engine import Database
from gateway.database.models import Job
from gateway.tracker import fold_facts
from gateway.webhook_bodies import MAX_NAMED_PHOTOS, MAX_REPORT_BYTES, compact_report, webhook_body
from shared.contracts.manifest import StepError
from tests.support.gateway_rows import LINKS, completed, deliveries_of, insert, job_of, key_of, manifest_of, new_job, stage_failed


async def test_a_completed_job_says_where_its_files_are(database: Database) -> None:
    """Flat, with signed links that end with the job's retention, the report and the caller's metadata."""
    job_id = await insert(database, new_job(callback_events=("stage.completed", "job.completed"), metadata={"tags": ["a", "ü", None]}))
    manifests = [manifest_of(job_id, position) for position in range(3)]
    async with database.write() as rows:
        await fold_facts(rows, [completed(manifests[2])], LINKS, {key_of(m): m for m in manifests})
    bodies = [json.loads(row.body) for row in await deliveries_of(database, job_id)]
    ending = next(body for body in bodies if body["type"] == "job.completed")
    assert ending == {
        "type": "job.completed",
        "timestamp": "2026-01-01T12:00:00.000Z",
        "job_id": job_id,
        "status": "completed",
        "result_url": ending["artifacts"][0]["url"],
        "artifacts": LINKS.artifacts_of(await job_of(database, job_id)),
        "report": {"verdict": "warn", "reasons": ["few photos"]},
        "metadata": {"tags": ["a", "ü", None]},
    }
    assert ending["artifacts"][0].keys() == {"name", "format", "bytes", "sha256", "url", "expires_at"}
    assert ending["artifacts"][0]["expires_at"] == "2026-01-31T12:00:00.000Z"
    steps = [body for body in bodies if body["type"] == "stage.completed"]
    assert sorted(body["stage"] for body in steps) == ["export", "ingest", "sfm"]
    assert {body["status"] for body in steps} == {"processing"}


async def test_a_failed_job_says_what_became_of_its_photos(database: Database) -> None:
    """Warnings as in the job, and the photos that were dropped with their reasons: what the error alone cannot say."""
    job_id = await insert(database)
    error = StepError(code="TOO_FEW_REGISTERED", message="too few", hint="more overlap")
    manifests = [manifest_of(job_id, 0), manifest_of(job_id, 1, error=error)]
    async with database.write() as rows:
        await fold_facts(rows, [stage_failed(manifests[1])], LINKS, {key_of(m): m for m in manifests})
    (row,) = await deliveries_of(database, job_id)
    body = json.loads(row.body)
    assert body["error"]["code"] == "TOO_FEW_REGISTERED"
    assert body["warnings"] == (await job_of(database, job_id)).warnings
    assert [warning["code"] for warning in body["warnings"]] == ["W0", "W1"]
    named = [{"name": "b.jpg", "reason": "NOT_REGISTERED"}, {"name": "c.jpg", "reason": "TOO_BLURRED"}]
    assert body["dropped"]["count"] == 2 and body["dropped"]["photos"] == named


@pytest.mark.parametrize("name", ["{:03d}.jpg", "ü" * 200 + "{:03d}.jpg"])
async def test_a_failed_jobs_webhook_stays_small(database: Database, name: str) -> None:
    """Of many photos and warnings the first are told, and all photos are counted."""
    job_id = await insert(database)
    async with database.write() as rows:
        job = await rows.session.get(Job, job_id, options=jobs.WHOLE)
        assert job is not None
        job.images = [{"name": name.format(i), "status": "dropped", "reason": "NOT_REGISTERED"} for i in range(1000)]
        job.warnings = [{"code": f"W{i}", "message": "m" * 500, "hint": "h" * 500} for i in range(200)]
        job.status, job.error = "failed", {"code": "TOO_FEW_REGISTERED"}
        text = webhook_body(rows, job, "job.failed", LINKS, None)
    body = json.loads(text)
    assert body["dropped"]["count"] == 1000 and 0 < len(body["dropped"]["photos"]) <= MAX_NAMED_PHOTOS
    assert 0 < len(body["warnings"]) < 200
    assert len(text) < MAX_REPORT_BYTES


def test_a_small_report_is_sent_whole() -> None:
    """Nothing is taken from what fits."""
    report = {"verdict": "pass", "numbers": [1, 2, 3]}
    assert compact_report(report) == report


def test_a_large_report_keeps_what_decides() -> None:
    """Verdict, reasons and key numbers stay; long lists go, and a note says where they are."""
    report = {
        "images": [{"name": f"{i}.jpg", "reason": "x" * 50} for i in range(1000)],
        "reprojection": {"mean_px": 0.4, "per_image": list(range(5000))},
        "verdict": "warn",
        "reasons": ["few photos"],
    }
    compact = compact_report(report)
    assert (compact["verdict"], compact["reasons"], compact["reprojection"]) == ("warn", ["few photos"], {"mean_px": 0.4})
    assert "report.json" in compact["note"]
    assert len(json.dumps(compact)) < MAX_REPORT_BYTES


def test_a_hostile_report_stays_small() -> None:
    """Whatever is in it, the report in a webhook has a limit."""
    reports = ({"verdict": "x" * 100_000}, {"reasons": ["y" * 900] * 1000}, {f"k{i}": "z" * 1000 for i in range(1000)})
    assert all(len(json.dumps(compact_report(report))) < MAX_REPORT_BYTES * 1.1 for report in reports)
