"""Workers die without a word; the job does not."""

from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.demo.client import follow, submit
from deploy.demo.receiver import CallerBackend
from deploy.native.mesh import Mesh
from shared.contracts.routing import STAGES
from tests.support.eventually import wait_until

INSTANT = ("ingest", "segmentation", "export")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_every_stage_survives_kill_9_and_the_webhook_its_receiver(
    mesh: Mesh, api: httpx.Client, caller: Callable[[Path], CallerBackend], small_capture: Path
) -> None:
    """Each stage's worker is killed while it computes: the job completes; its one webhook is called until it is taken, with one id."""
    for stage in INSTANT:
        psutil.Process(pid_of(mesh, stage)).children()[0].suspend()  # so that its compute is still under way when it is killed
    backend = caller(small_capture)
    backend.answers = iter([500, 500])
    job_id = submit(api, backend.photo_urls(), f"{backend.url}/hook", "fastest")
    killed: set[str] = set()
    for job in follow(api, job_id):
        mesh.watch()
        for stage in job["stages"]:
            if stage["status"] == "processing" and stage["name"] not in killed:
                killed.add(stage["name"])
                kill_worker(mesh, stage["name"])
    assert job["status"] == "completed", job["error"]
    assert killed == set(STAGES)
    calls = [backend.webhooks.get(timeout=120) for _ in range(3)]
    assert {call.payload["type"] for call in calls} == {"job.completed"}
    assert len({call.webhook_id for call in calls}) == 1 and all(call.verified for call in calls)
    wait_until(lambda: len(attempts(api, job_id)) == 3, timeout_s=20)
    assert [attempt["status_code"] for attempt in attempts(api, job_id)] == [500, 500, 204]
    assert backend.webhooks.empty()


def attempts(api: httpx.Client, job_id: str) -> list[dict]:
    """Every call of the job's only delivery."""
    (delivery,) = api.get(f"/api/v1/jobs/{job_id}/webhooks").raise_for_status().json()["deliveries"]
    return delivery["attempts"]


def pid_of(mesh: Mesh, stage: str) -> int:
    """The stage's worker process."""
    (replica,) = mesh.of(stage)
    assert replica.process.pid is not None
    return replica.process.pid


def kill_worker(mesh: Mesh, stage: str) -> None:
    """SIGKILL to the worker process alone; the child that computes, and what it started, must end with it."""
    worker = psutil.Process(pid_of(mesh, stage))
    children = worker.children(recursive=True)
    worker.kill()
    assert psutil.wait_procs(children, timeout=10)[1] == []
