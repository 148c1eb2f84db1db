"""Jobs that are stopped, poisoned or damaged on real servers: each ends once, says why, and the queues move on."""

import httpx
import pytest

from deploy.demo.receiver import CallerBackend
from shared.contracts.manifest import Manifest
from shared.contracts.routing import HEADER_JOB, HEADER_STEP, STAGES
from shared.storage import keys
from shared.storage.minio import MinioStore
from tests.chaos.hanging import PART, computing
from tests.chaos.jobs import Webhooks, completes, error_of, is_purged, is_whole, patiently, submit, unfinished
from tests.chaos.mesh import ChaosMesh
from tests.support.eventually import eventually, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("stage", (*STAGES, pytest.param(PART, marks=pytest.mark.full)))
def test_a_job_cancelled_at_any_stage_ends_once(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, stage: str
) -> None:
    """Cancelled at once, while its child hangs: one webhook, and row, delivery and webhook agree."""
    with computing(mesh, api, f"{backend.url}/hook", stage) as job_id:
        assert patiently(api, "POST", f"/api/v1/jobs/{job_id}/cancel").status_code == 202
        wait_until(lambda: webhooks.collect() or webhooks.calls[job_id], timeout_s=30, interval_s=0.1)
    job = patiently(api, "GET", f"/api/v1/jobs/{job_id}").json()
    deliveries = patiently(api, "GET", f"/api/v1/jobs/{job_id}/webhooks").json()["deliveries"]
    assert (job["status"], [delivery["type"] for delivery in deliveries]) == ("cancelled", ["job.cancelled"])
    assert webhooks.calls[job_id] == [(deliveries[0]["id"], "job.cancelled")]
    assert patiently(api, "POST", f"/api/v1/jobs/{job_id}/cancel").json()["code"] == "JOB_FINISHED"


@pytest.mark.parametrize("stage", (*STAGES, pytest.param(PART, marks=pytest.mark.full)))
async def test_a_job_deleted_at_any_stage_leaves_two_marks(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, store: MinioStore, stage: str
) -> None:
    """Nothing but `stop` and `deleted` is left in the store, and no webhook comes."""
    with computing(mesh, api, f"{backend.url}/hook", stage) as job_id:
        assert patiently(api, "DELETE", f"/api/v1/jobs/{job_id}").status_code == 204
        await eventually(lambda: is_purged(store, job_id), 30, 0.2)
    completes(api, backend, webhooks)  # the worker that was on it is free
    assert await is_purged(store, job_id) and webhooks.calls[job_id] == []
    assert patiently(api, "GET", f"/api/v1/jobs/{job_id}").status_code == 404


@pytest.mark.parametrize("body", ["not json", '{"job_id": 3}', '{"schema_version": 1, "job_id": "x", "slip": {}, "position": 0}'])
def test_a_message_that_nobody_can_read_ends_its_job_and_is_kept(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, body: str
) -> None:
    """Job and step travel in its headers: the job fails with a code, the message waits in `dead.sfm`, the queue moves on."""
    before = mesh.rabbitmq.management.call("GET", "queues/meshwork/dead.sfm").get("messages", 0)
    with computing(mesh, api, f"{backend.url}/hook", "sfm") as job_id:
        headers = {HEADER_JOB: job_id, HEADER_STEP: "sfm"}
        message = {"routing_key": "stage.sfm", "payload": body, "payload_encoding": "string", "properties": {"headers": headers}}
        assert mesh.rabbitmq.management.call("POST", "exchanges/meshwork/work/publish", message)["routed"]
        mesh.kill("sfm")  # the one that hangs: another takes both messages
        assert error_of(api, job_id)["code"] == "INTERNAL"
    wait_until(lambda: mesh.rabbitmq.management.call("GET", "queues/meshwork/dead.sfm").get("messages", 0) > before, timeout_s=30)
    completes(api, backend, webhooks)


@pytest.mark.parametrize(("stage", "point"), [("sfm", "compute"), pytest.param("mvs", "part.compute", marks=pytest.mark.full)])
def test_a_task_that_always_kills_its_worker_ends_its_job(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, stage: str, point: str
) -> None:
    """The broker counts the workers that it took: the fifth ends the job as WORKER_LOST; the next job is not harmed."""
    deaths = len(mesh.killed())
    job_id = submit(api, f"{backend.url}/hook")

    def has_ended() -> bool:
        if not unfinished(api, [job_id]):
            return True
        mesh.arm(stage, f"before.{point}")
        return False

    wait_until(has_ended, timeout_s=180, interval_s=0.2)
    mesh.disarm()
    assert error_of(api, job_id)["code"] == "WORKER_LOST"
    assert len(mesh.killed()) - deaths >= 5
    completes(api, backend, webhooks)


async def test_a_flipped_bit_in_the_store_is_computed_again(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, store: MinioStore
) -> None:
    """Damage between two stages is found by its sha256; the job completes with the right model."""
    with computing(mesh, api, f"{backend.url}/hook", "sfm") as job_id:
        manifest = Manifest.model_validate_json(await store.get(keys.step_manifest(job_id, 1, "segmentation")))
        key = keys.attempt_file(job_id, 1, "segmentation", manifest.attempt, "payload.bin")
        payload = bytearray(await store.get(key))
        payload[1000] ^= 1
        await store.put(key, bytes(payload))
        mesh.kill("sfm")  # it had read its inputs
    wait_until(lambda: not unfinished(api, [job_id]), timeout_s=120, interval_s=0.2)
    again = Manifest.model_validate_json(await store.get(keys.step_manifest(job_id, 1, "segmentation")))
    assert again.attempt != manifest.attempt
    is_whole(api, webhooks, job_id)
