"""Two at one thing on real servers, workers at a task or a cancel and the end of a job: one manifest, one ending, one webhook."""

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import httpx
import pytest

from deploy.demo.receiver import CallerBackend
from deploy.native.mesh import Replica
from shared.contracts.routing import STAGES
from shared.errors import ObjectMissing
from shared.storage import keys
from shared.storage.minio import MinioStore
from tests.chaos.hanging import PART, hanging_child, hanging_in
from tests.chaos.jobs import Webhooks, attempts_of, completes, faults_in_store, is_whole, patiently, status_of, submit
from tests.chaos.mesh import ChaosMesh, Proxies, lacks
from tests.chaos.stand_ins import Mvs
from tests.support.eventually import eventually, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGE = "sfm"
OF_EACH_ENDING = 3


@contextmanager
def only_worker_behind(mesh: ChaosMesh, proxies: Proxies, stage: str = STAGE) -> Iterator[Replica]:
    """The stage has one worker, which reaches its servers through proxies of its own."""
    mesh.scale(stage, 0)
    only = mesh.add(stage, **mesh.through(proxies))
    wait_until(only.is_ready, timeout_s=60, interval_s=0.2)
    try:
        yield only
    finally:
        mesh.renew(stage)


class Step:
    """What the store has of the stage's step of a job."""

    def __init__(self, store: MinioStore, job_id: str, stage: str = STAGE) -> None:
        self._store = store
        self._key = (job_id, STAGES.index(stage), stage)

    async def manifest(self) -> bytes:
        """The one that decides; empty until there is one."""
        try:
            return await self._store.get(keys.step_manifest(*self._key))
        except ObjectMissing:
            return b""

    async def attempts(self) -> int:
        """How many were finished."""
        own = keys.step_manifest(*self._key)
        return sum(key.endswith("/manifest.json") for key in await self._store.list(keys.step_prefix(*self._key)) if key != own)


def consumers(mesh: ChaosMesh, stage: str = STAGE) -> list[str]:
    """The broker's names of the connections that the stage's workers consume on."""
    name = f"{stage}@{socket.gethostname()}#consume"
    connections = mesh.rabbitmq.management.call("GET", "connections")
    return [str(connection["name"]) for connection in connections if connection.get("user_provided_name") == name]


def workspaces(mesh: ChaosMesh, stage: str = STAGE) -> int:
    """How many workers of the stage are at a task now."""
    return len(list(mesh.folder.glob(f"work/meshwork-work-{stage}-*/*/steps.json")))


@pytest.mark.parametrize("first", ["the one cut off", pytest.param("the one that took over", marks=pytest.mark.full)])
async def test_two_workers_on_one_task_commit_once(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, store: MinioStore, first: str
) -> None:
    """A worker that the proxy cuts off computes on beside the one that took over: both finish, the manifest of the first stays."""
    hook = f"{backend.url}/hook"
    with Proxies.of(mesh.ports) as proxies, only_worker_behind(mesh, proxies), hanging_in(mesh, api, hook, STAGE) as (job_id, child):
        step = Step(store, job_id)
        of_cut_off = wait_until(lambda: consumers(mesh), timeout_s=30, interval_s=0.5)
        proxies.do("amqp", "stall")
        with hanging_child(mesh.add(STAGE)) as other:
            for name in of_cut_off:  # the broker takes the task back; who is cut off hears nothing of it
                mesh.rabbitmq.management.call("DELETE", f"connections/{quote(name)}")
            wait_until(lambda: workspaces(mesh) == 2, timeout_s=60, interval_s=0.1)
            earlier, later = (child, other) if first == "the one cut off" else (other, child)
            earlier.resume()
            manifest = await eventually(step.manifest, 60, 0.1)
            later.resume()
            await eventually(lambda: has_finished(step, 2), 60, 0.1)
        is_whole(api, webhooks, job_id)
        proxies.do("amqp", "resume")
    completes(api, backend, webhooks)  # behind whatever was published twice
    is_whole(api, webhooks, job_id)
    assert [kind for _, kind in webhooks.calls[job_id]] == ["job.completed"]
    assert (await step.manifest(), await step.attempts()) == (manifest, 2)
    assert await faults_in_store(store, job_id) == []


@pytest.mark.full
async def test_a_part_that_comes_too_late_changes_nothing(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, store: MinioStore
) -> None:
    """A worker cut off from the broker hangs on a part; another makes the whole step meanwhile, which stays as it is."""
    stage, hook = Mvs.name, f"{backend.url}/hook"
    with Proxies.of(mesh.ports) as proxies, only_worker_behind(mesh, proxies, stage), hanging_in(mesh, api, hook, PART) as (job_id, child):
        step = Step(store, job_id, stage)
        of_cut_off = wait_until(lambda: consumers(mesh, stage), timeout_s=30, interval_s=0.5)
        proxies.do("amqp", "stall")
        mesh.add(stage)
        for name in of_cut_off:
            mesh.rabbitmq.management.call("DELETE", f"connections/{quote(name)}")
        is_whole(api, webhooks, job_id)
        manifest = await step.manifest()
        assert workspaces(mesh, stage) == 1  # of the one cut off
        child.resume()
        wait_until(lambda: workspaces(mesh, stage) == 0, timeout_s=60, interval_s=0.1)
        proxies.do("amqp", "resume")
    completes(api, backend, webhooks)  # behind whatever was published twice
    is_whole(api, webhooks, job_id)
    assert (await step.manifest(), await step.attempts()) == (manifest, 1)
    assert await faults_in_store(store, job_id) == []


async def has_finished(step: Step, attempts: int) -> bool:
    return await step.attempts() == attempts


async def test_a_worker_cut_off_from_the_store_alone_keeps_its_task(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, store: MinioStore
) -> None:
    """It says what it lacks and holds what it computed, while another worker does what comes; then it goes on, uncounted."""
    with Proxies.of(mesh.ports) as proxies, only_worker_behind(mesh, proxies) as worker:
        with hanging_in(mesh, api, f"{backend.url}/hook", STAGE) as (held, _):
            proxies.do("s3", "refuse")
        wait_until(lambda: lacks(worker) == ["store"], timeout_s=60, interval_s=0.2)
        mesh.add(STAGE)
        completes(api, backend, webhooks)
        assert status_of(api, held, STAGE) == "processing"
        proxies.do("s3", "accept")
        is_whole(api, webhooks, held)
    assert (attempts_of(api, held, STAGE), await Step(store, held).attempts()) == (1, 1)
    assert await faults_in_store(store, held) == []


def test_a_job_that_ends_while_it_is_cancelled_ends_once(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks
) -> None:
    """Whichever comes first: the answer to the cancel, GET, webhook and delivery log agree on it."""
    endings: dict[str, str] = {}
    wait_s = 0.05
    while min(Counter(endings.values())[ending] for ending in ("cancelled", "completed")) < OF_EACH_ENDING:
        job_id = submit(api, f"{backend.url}/hook")
        wait_until(lambda: status_of(api, job_id, STAGES[-1]) != "pending", timeout_s=60, interval_s=0.02)  # noqa: B023
        time.sleep(wait_s)
        answer = patiently(api, "POST", f"/api/v1/jobs/{job_id}/cancel")
        endings[job_id] = "cancelled" if answer.status_code == 202 else "completed"
        wait_s *= 1.5 if endings[job_id] == "cancelled" else 0.6  # towards the moment at which both happen

    for job_id, ending in endings.items():
        wait_until(lambda: webhooks.collect() or webhooks.calls[job_id], timeout_s=60, interval_s=0.1)  # noqa: B023
        job = patiently(api, "GET", f"/api/v1/jobs/{job_id}").json()
        deliveries = patiently(api, "GET", f"/api/v1/jobs/{job_id}/webhooks").json()["deliveries"]
        told = [(delivery["id"], delivery["type"]) for delivery in deliveries]
        assert (job["status"], [kind for _, kind in told]) == (ending, [f"job.{ending}"])
        assert set(webhooks.calls[job_id]) == set(told)
        if ending == "completed":
            is_whole(api, webhooks, job_id)
