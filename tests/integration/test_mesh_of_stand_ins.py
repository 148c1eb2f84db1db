"""Whole jobs through gateway, servers and workers as processes; stages compute nothing, and misbehave where a photo's name says so."""

import json
import shutil
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.demo.client import FINAL
from deploy.native.mesh import VHOST, Mesh, Ports
from shared.contracts.manifest import Manifest
from shared.contracts.routing import HEADER_CODE, HEADER_JOB, HEADER_REASON, STAGES
from shared.runtime.turn import MAX_TRIES
from shared.storage import keys
from shared.storage.minio import MinioStore
from tests.integration.stand_in_process import HARD_LIMITS_S
from tests.integration.stand_in_stages import line_of
from tests.security.conftest import key_entry, write_tenants
from tests.support.brokers import back_soon
from tests.support.eventually import wait_until
from tests.support.log_secrets import secrets_in_logs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

IN_FLIGHT = 4  # of one tenant at a time
MANY, ONE = "mwk_tenant-with-many-jobs", "mwk_tenant-with-one-job"
SOON_MS = 200  # what is tried again is back then


class StandInMesh(Mesh):
    """The product's mesh, with other stages and small limits."""

    def command(self, service: str) -> list[str]:
        return [sys.executable, "-m", "tests.integration.stand_in_process", service]

    def parked(self, stage: str) -> list[Mapping[str, Any]]:
        """Headers of what was given up at the stage; it stays there."""
        asked = {"count": 100, "ackmode": "ack_requeue_true", "encoding": "auto"}
        return [
            found["properties"]["headers"] for found in self.rabbitmq.management.call("POST", f"queues/{VHOST}/dead.{stage}/get", asked)
        ]


@pytest.fixture(scope="module")
def mesh() -> Iterator[StandInMesh]:
    folder = Path(tempfile.mkdtemp(prefix="meshwork-stand-ins-"))
    folder.chmod(0o755)  # PostgreSQL's own user must get through
    tenants = {name: {"keys": [key_entry(key, "admin")]} for name, key in (("many", MANY), ("one", ONE))}
    environment = {
        "MESHWORK_ALLOWED_PRIVATE_NETWORKS": "127.0.0.1/32",
        "MESHWORK_IN_FLIGHT": str(IN_FLIGHT),
        "MESHWORK_TENANTS_FILE": str(write_tenants(folder / "tenants.yml", tenants)),
        "MESHWORK_MEMORY_CHECK_S": "0.1",
        "MESHWORK_THREADS": "1",
    }
    mesh = StandInMesh(folder / "mesh", Ports(), environment)
    try:
        mesh.start()
        management = mesh.rabbitmq.management
        with back_soon(management, VHOST, "10s", SOON_MS), back_soon(management, VHOST, "1m", SOON_MS):
            yield mesh
    finally:
        mesh.destroy()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def store(mesh: StandInMesh) -> AsyncIterator[MinioStore]:
    store = MinioStore(mesh.minio.endpoint, mesh.minio.access_key, mesh.minio.secret_key, "meshwork")
    yield store
    await store.close()


class Caller:
    """A tenant's backend."""

    def __init__(self, api_url: str, key: str) -> None:
        self.api = httpx.Client(base_url=f"{api_url}/api/v1", headers={"X-API-Key": key}, timeout=60)

    def submit(self, photo: str = "a.jpg", **more: object) -> str:
        """A job of three photos, one of them called so."""
        urls = [f"http://127.0.0.1/{name}" for name in (photo, "b.jpg", "c.jpg")]
        answer = self.api.post("/reconstruct", json={"image_urls": urls, **more}, headers={"Idempotency-Key": str(uuid.uuid4())})
        return str(answer.raise_for_status().json()["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.api.get(f"/jobs/{job_id}").raise_for_status().json())

    def ended(self, job_id: str) -> dict[str, Any]:
        """The job, once it has."""
        return wait_until(lambda: (job := self.job(job_id))["status"] in FINAL and job, 180, 0.2) or {}

    def model(self, job_id: str) -> str:
        return self.api.get(f"/jobs/{job_id}/artifacts/model.glb", follow_redirects=True).raise_for_status().text

    def jobs(self, status: str) -> list[dict[str, Any]]:
        """All that are so."""
        found: list[dict[str, Any]] = []
        asked = {"status": status, "limit": "100"}
        while True:
            page = self.api.get("/jobs", params=asked).raise_for_status().json()
            found += page["jobs"]
            if page["next_cursor"] is None:
                return found
            asked["cursor"] = page["next_cursor"]


@pytest.fixture
def caller(mesh: StandInMesh) -> Caller:
    return Caller(mesh.api_url, mesh.secrets["MESHWORK_API_KEY"])


async def manifest_of(store: MinioStore, job_id: str, stage: str) -> Manifest:
    """What the stage was committed with."""
    return Manifest.model_validate_json(await store.get(keys.step_manifest(job_id, STAGES.index(stage), stage)))


def step_of(job: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """How far the job's stage is."""
    return next(step for step in job["stages"] if step["name"] == stage)


async def test_a_stage_that_hangs_is_ended_by_its_limit(mesh: StandInMesh, caller: Caller, store: MinioStore) -> None:
    """Once: tried again, and the job completes. Always: three times, then the job fails with the reason, and the queue moves on."""
    once, always = caller.submit("hang_once-in-sfm.jpg"), caller.submit("hang-in-segmentation.jpg")

    job = caller.ended(once)
    assert (job["status"], step_of(job, "sfm")["attempts"]) == ("completed", 2)
    assert (await manifest_of(store, once, "sfm")).tries == 2

    job = caller.ended(always)
    assert (job["status"], job["error"]["code"], job["error"]["stage"]) == ("failed", "STAGE_TIMEOUT", "segmentation")
    assert step_of(job, "segmentation")["attempts"] == MAX_TRIES
    (evidence,) = (headers for headers in mesh.parked("segmentation") if headers[HEADER_JOB] == always)
    assert evidence[HEADER_CODE] == "STAGE_TIMEOUT" and f"its limit of {HARD_LIMITS_S['segmentation']:.0f} s" in evidence[HEADER_REASON]
    assert caller.ended(caller.submit())["status"] == "completed"


async def test_a_stage_that_eats_memory_is_ended_by_its_limit_and_done_smaller(caller: Caller, store: MinioStore) -> None:
    """Once more at a lower resolution: manifest, job and report say so."""
    job_id = caller.submit("eat-in-mvs.jpg")

    job = caller.ended(job_id)
    manifest = await manifest_of(store, job_id, "mvs")

    assert (job["status"], manifest.reduction, manifest.tries) == ("completed", 1, 2)
    assert [warning.code for warning in manifest.report.warnings] == ["LOWER_RESOLUTION"]
    assert [warning["code"] for warning in job["warnings"]] == ["LOWER_RESOLUTION"]
    report = json.loads(caller.api.get(f"/jobs/{job_id}/artifacts/report.json", follow_redirects=True).raise_for_status().text)
    for told in (report, job["report"]):
        assert "LOWER_RESOLUTION" in [reason["code"] for reason in told["reasons"]]
    assert {stage["name"]: stage["reduction"] for stage in report["stages"]} == {**dict.fromkeys(STAGES[:-1], 0), "mvs": 1}


async def test_a_job_retried_with_other_options_computes_what_they_change(caller: Caller, store: MinioStore) -> None:
    """A new job with the first as parent: stages before the changed one are copied, it and those after it are computed."""
    options = {"mvs": {"views": 6}}
    first = caller.submit(metadata={"order": 7})
    assert caller.ended(first)["status"] == "completed"

    answer = caller.api.post(f"/jobs/{first}/retry", json={"options": options}).raise_for_status().json()
    job = caller.ended(answer["job_id"])

    assert (answer["job_id"] != first, job["status"], job["parent"], job["metadata"]) == (True, "completed", first, {"order": 7})
    manifests = {stage: await manifest_of(store, job["job_id"], stage) for stage in STAGES}
    reused = {stage: manifest.reused_from for stage, manifest in manifests.items()}
    assert reused == {**dict.fromkeys(("ingest", "segmentation", "sfm"), first), **dict.fromkeys(("mvs", "postprocess", "export"))}
    assert caller.model(first) == "".join(line_of(stage, {}) for stage in STAGES)
    assert caller.model(job["job_id"]) == "".join(line_of(stage, options.get(stage, {})) for stage in STAGES)


def test_who_has_many_jobs_does_not_keep_others_waiting(mesh: StandInMesh) -> None:
    """Two hundred of one tenant, then one of another, which ends while most of them wait; then an urgent one of the first tenant, which is
    begun before all that wait but those that had been let in."""
    many, one = Caller(mesh.api_url, MANY), Caller(mesh.api_url, ONE)
    for _ in range(200):
        many.submit()
    assert one.ended(one.submit())["status"] == "completed"
    assert len(many.jobs("queued")) > 100

    urgent = many.submit(priority="high")
    waited = [job["job_id"] for job in many.jobs("queued") if job["job_id"] != urgent]
    begun = wait_until(lambda: many.job(urgent)["started_at"], 60, 0.1)

    assert len(waited) > 100
    begun_before = [job_id for job_id in waited if (moment := many.job(job_id)["started_at"]) is not None and moment < begun]
    assert len(begun_before) <= IN_FLIGHT


def test_no_log_of_these_jobs_tells_a_secret(mesh: StandInMesh) -> None:
    """Asked last: steps that failed, retries, links that were followed, further tenants' keys."""
    assert secrets_in_logs(mesh.folder / "logs", {**mesh.secrets, "key of many": MANY, "key of one": ONE}) == []
