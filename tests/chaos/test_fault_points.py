"""Every process is killed before and after everything that it does to the outside: the job completes, once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from deploy.demo.receiver import CallerBackend
from shared.contracts.routing import STAGES
from shared.storage import keys
from shared.storage.minio import MinioStore
from tests.chaos.fault_points import DEAD, FAILED, GATEWAY, PARTED, PURGE, RETRY, STOP, WEBHOOKS, WORKER, both
from tests.chaos.hanging import computing
from tests.chaos.jobs import Webhooks, completes, error_of, faults_in_store, is_purged, is_whole, patiently, submit, unfinished
from tests.chaos.mesh import ChaosMesh
from tests.chaos.stand_ins import Mvs
from tests.support.eventually import eventually, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PER_JOB = 3  # kills of one delivery: the fifth would be WORKER_LOST, rightly
# What is tried in a quick run: places where an effect is there and nobody knows of it yet.
QUICK = {
    WORKER: ("before.commit", "after.stage.work", "before.ack"),
    PARTED: ("after.split", "after.part", "after.claim", "before.follows"),
    GATEWAY: ("after.claim", "after.stage.work", "after.rows", "before.ack", "after.webhook.work"),
    WEBHOOKS: ("after.call", "after.webhook.attempted", "after.retry"),
}
POINTS_OF = {"worker_points": WORKER, "part_points": PARTED, "gateway_points": GATEWAY, "webhook_points": WEBHOOKS}
STAGE = "sfm"  # of what is tried at one stage in a quick run
AT_EACH_STAGE = [pytest.param(stage, marks=() if stage == STAGE else pytest.mark.full) for stage in STAGES]


def groups(points: list[str]) -> list[tuple[str, ...]]:
    return [tuple(points[start : start + PER_JOB]) for start in range(0, len(points), PER_JOB)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, points in POINTS_OF.items():
        if fixture in metafunc.fixturenames:
            full = metafunc.config.getoption("--chaos") == "full"
            metafunc.parametrize(fixture, groups(both(points)) if full else [QUICK[points]], ids="+".join)


@dataclass(frozen=True)
class Chaos:
    """The mesh, its caller, and what the caller cannot see."""

    mesh: ChaosMesh
    api: httpx.Client
    backend: CallerBackend
    webhooks: Webhooks
    store: MinioStore

    def arm(self, service: str, points: Iterable[str]) -> set[str]:
        """Each kills once; what `killed` then says."""
        self.mesh.arm(service, *points)
        return {f"{service} {point}" for point in points}

    def ends(self, ending: str, expected: set[str], first: str = "a") -> str:
        """One job runs into every armed point and ends as it must; its id."""
        before = len(self.mesh.killed())
        job_id = submit(self.api, f"{self.backend.url}/hook", first)
        wait_until(lambda: not unfinished(self.api, [job_id]) and not self.mesh.armed(), timeout_s=300, interval_s=0.3)
        assert set(self.mesh.killed()[before:]) == expected
        is_whole(self.api, self.webhooks, job_id, ending)
        return job_id

    async def completes(self, expected: set[str], first: str = "a") -> None:
        """The same, whole."""
        job_id = self.ends("completed", expected, first)
        assert await faults_in_store(self.store, job_id) == []


@pytest.fixture
def chaos(mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, store: MinioStore) -> Chaos:
    return Chaos(mesh, api, backend, webhooks, store)


async def test_a_worker_killed_at_any_point_costs_nothing(chaos: Chaos, worker_points: tuple[str, ...]) -> None:
    """At every stage: each step is committed once, the chain is one, the webhook has one id."""
    expected = set()
    for index, stage in enumerate(STAGES):
        expected |= chaos.arm(stage, [point for point in worker_points if exists(point, index)])
    await chaos.completes(expected)


def exists(point: str, index: int) -> bool:
    """The first stage downloads nothing here, the last one hands nothing on; one is divided, and computes in parts."""
    return not (
        (index == 0 and point.endswith("download"))
        or (index == len(STAGES) - 1 and point.endswith("stage.work"))
        or (STAGES[index] == Mvs.name and point.endswith("compute"))
    )


async def test_a_worker_killed_amid_parts_costs_nothing(chaos: Chaos, part_points: tuple[str, ...]) -> None:
    """While it divides the step, does a part, brings on the next round, joins: every part is in the step once."""
    await chaos.completes(chaos.arm(Mvs.name, part_points))


async def test_a_worker_killed_while_it_puts_a_task_back_costs_nothing(chaos: Chaos, full: bool) -> None:
    """Each task fails once (of a step that is divided, each share): it is tried again, and the job is whole."""
    expected = set()
    for stage in STAGES if full else (STAGE,):
        expected |= chaos.arm(stage, both((RETRY,)) if full else (f"after.{RETRY}",))
    with chaos.mesh.back_soon("10s"):
        await chaos.completes(expected, "all-fails-once" if full else f"{STAGE}-fails-once")


@pytest.mark.parametrize("stage", AT_EACH_STAGE)
@pytest.mark.parametrize(("how", "point", "code"), [("always", DEAD, "INTERNAL"), ("for-good", FAILED, "NO_SURFACE")])
async def test_a_worker_killed_while_it_tells_of_a_failure_fails_the_job_once(
    chaos: Chaos, full: bool, stage: str, how: str, point: str, code: str
) -> None:
    """A task that failed at every try, or for good: one ending with its reason, one webhook, and nobody works on it any more."""
    expected = chaos.arm(stage, both((point,)) if full else (f"after.{point}",))
    with chaos.mesh.back_soon("10s"):
        job_id = chaos.ends("failed", expected, f"{stage}-fails-{how}")
    error = error_of(chaos.api, job_id)
    assert (error["code"], error["stage"]) == (code, stage)
    await eventually(lambda: is_stopped(chaos, job_id, b"failed"), 60, 0.2)


async def is_stopped(chaos: Chaos, job_id: str, why: bytes) -> bool:
    """Whether workers are told to leave the job alone."""
    key = keys.stop(job_id)
    return await chaos.store.exists(key) and await chaos.store.get(key) == why


async def test_a_gateway_killed_at_any_point_loses_no_job(chaos: Chaos, gateway_points: tuple[str, ...]) -> None:
    """While it leases, writes and publishes what rows decided, and while it folds what workers told."""
    await chaos.completes(chaos.arm("gateway", gateway_points))


@pytest.mark.full
async def test_a_gateway_killed_while_it_stops_a_job_stops_it(chaos: Chaos) -> None:
    """Cancelled while a child hangs on it: its worker is told, and one webhook tells its owner."""
    before = len(chaos.mesh.killed())
    with computing(chaos.mesh, chaos.api, f"{chaos.backend.url}/hook", STAGE) as job_id:
        expected = chaos.arm("gateway", both(STOP))
        patiently(chaos.api, "POST", f"/api/v1/jobs/{job_id}/cancel")
        wait_until(lambda: not chaos.mesh.armed(), timeout_s=120, interval_s=0.2)
    is_whole(chaos.api, chaos.webhooks, job_id, "cancelled")
    await eventually(lambda: is_stopped(chaos, job_id, b"cancelled"), 60, 0.2)
    completes(chaos.api, chaos.backend, chaos.webhooks)  # the worker that was on it is free
    assert set(chaos.mesh.killed()[before:]) == expected


async def test_a_gateway_killed_while_it_purges_a_job_leaves_two_marks(chaos: Chaos, full: bool) -> None:
    """Deleted while a child hangs on it: nothing else is left, and no webhook comes."""
    before = len(chaos.mesh.killed())
    with computing(chaos.mesh, chaos.api, f"{chaos.backend.url}/hook", STAGE) as job_id:
        expected = chaos.arm("gateway", both(PURGE) if full else ("after.deleted",))
        patiently(chaos.api, "DELETE", f"/api/v1/jobs/{job_id}")
        wait_until(lambda: not chaos.mesh.armed(), timeout_s=180, interval_s=0.2)
        await eventually(lambda: is_purged(chaos.store, job_id), 60, 0.2)
    completes(chaos.api, chaos.backend, chaos.webhooks)  # the worker that was on it is free
    assert await is_purged(chaos.store, job_id)
    assert chaos.webhooks.calls[job_id] == []
    assert set(chaos.mesh.killed()[before:]) == expected


async def test_webhooks_killed_at_any_point_call_again_with_the_same_id(chaos: Chaos, webhook_points: tuple[str, ...]) -> None:
    """Where a retry is to be met, the receiver fails until it was."""
    chaos.backend.answers = iter([500] * PER_JOB if any(point.endswith("retry") for point in webhook_points) else [])
    await chaos.completes(chaos.arm("webhooks", webhook_points))


async def test_webhooks_killed_while_they_park_a_delivery_park_it_once(chaos: Chaos) -> None:
    """The receiver wants no more calls (410), and the service is lost before and after it says so: one id, listed as parked."""
    chaos.backend.answers = iter([410] * (PER_JOB + 1))
    expected = chaos.arm("webhooks", both((DEAD,)))
    before = len(chaos.mesh.killed())
    job_id = submit(chaos.api, f"{chaos.backend.url}/hook")
    wait_until(lambda: [each["status"] for each in deliveries_of(chaos, job_id)] == ["parked"], timeout_s=120, interval_s=0.3)
    wait_until(lambda: not chaos.mesh.armed(), timeout_s=60, interval_s=0.3)
    assert set(chaos.mesh.killed()[before:]) == expected
    chaos.backend.answers = iter(())
    completes(chaos.api, chaos.backend, chaos.webhooks)  # and the next one is told
    assert {webhook_id for webhook_id, _ in chaos.webhooks.calls[job_id]} == {deliveries_of(chaos, job_id)[0]["id"]}
    assert patiently(chaos.api, "GET", f"/api/v1/jobs/{job_id}").json()["status"] == "completed"


def deliveries_of(chaos: Chaos, job_id: str) -> list[dict[str, Any]]:
    """Of a job, as its caller sees them."""
    return list(patiently(chaos.api, "GET", f"/api/v1/jobs/{job_id}/webhooks").json()["deliveries"])
