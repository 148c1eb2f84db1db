"""Every process is killed before and after everything that it does to the outside: the job completes, once."""

import httpx
import pytest

from deploy.demo.receiver import CallerBackend
from shared.contracts.routing import STAGES
from shared.storage.minio import MinioStore
from tests.chaos.fault_points import GATEWAY, PARTED, WEBHOOKS, WORKER, both
from tests.chaos.jobs import Webhooks, faults_in_store, faults_of, submit, unfinished
from tests.chaos.mesh import ChaosMesh
from tests.chaos.stand_ins import Mvs
from tests.support.eventually import wait_until

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


def groups(points: list[str]) -> list[tuple[str, ...]]:
    return [tuple(points[start : start + PER_JOB]) for start in range(0, len(points), PER_JOB)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, points in POINTS_OF.items():
        if fixture in metafunc.fixturenames:
            full = metafunc.config.getoption("--chaos") == "full"
            metafunc.parametrize(fixture, groups(both(points)) if full else [QUICK[points]], ids="+".join)


async def check(mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, expected: set[str]) -> None:
    """One job runs into every armed point and comes back whole."""
    before = len(mesh.killed())
    job_id = submit(api, f"{backend.url}/hook")
    wait_until(lambda: not unfinished(api, [job_id]) and not mesh.armed(), timeout_s=300, interval_s=0.3)
    assert set(mesh.killed()[before:]) == expected
    wait_until(lambda: webhooks.collect() or webhooks.calls[job_id], timeout_s=60, interval_s=0.2)
    wait_until(lambda: not faults_of(api, job_id, webhooks), timeout_s=60, interval_s=0.5)
    store = MinioStore(mesh.minio.endpoint, mesh.minio.access_key, mesh.minio.secret_key, "meshwork")
    assert await faults_in_store(store, job_id) == []
    await store.close()


async def test_a_worker_killed_at_any_point_costs_nothing(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, worker_points: tuple[str, ...]
) -> None:
    """At every stage: each step is committed once, the chain is one, the webhook has one id."""
    expected = set()
    for index, stage in enumerate(STAGES):
        here = [point for point in worker_points if exists(point, index)]
        mesh.arm(stage, *here)
        expected |= {f"{stage} {point}" for point in here}
    await check(mesh, api, backend, webhooks, expected)


def exists(point: str, index: int) -> bool:
    """The first stage downloads nothing here, the last one hands nothing on; one is divided, and computes in parts."""
    return not (
        (index == 0 and point.endswith("download"))
        or (index == len(STAGES) - 1 and point.endswith("stage.work"))
        or (STAGES[index] == Mvs.name and point.endswith("compute"))
    )


async def test_a_worker_killed_amid_parts_costs_nothing(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, part_points: tuple[str, ...]
) -> None:
    """While it divides the step, does a part, brings on the next round, joins: every part is in the step once."""
    mesh.arm(Mvs.name, *part_points)
    await check(mesh, api, backend, webhooks, {f"{Mvs.name} {point}" for point in part_points})


async def test_a_gateway_killed_at_any_point_loses_no_job(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, gateway_points: tuple[str, ...]
) -> None:
    """While it leases, writes and publishes what rows decided, and while it folds what workers told."""
    mesh.arm("gateway", *gateway_points)
    await check(mesh, api, backend, webhooks, {f"gateway {point}" for point in gateway_points})


async def test_webhooks_killed_at_any_point_call_again_with_the_same_id(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, webhook_points: tuple[str, ...]
) -> None:
    """Where a retry is to be met, the receiver fails until it was."""
    backend.answers = iter([500] * PER_JOB if any(point.endswith("retry") for point in webhook_points) else [])
    mesh.arm("webhooks", *webhook_points)
    await check(mesh, api, backend, webhooks, {f"webhooks {point}" for point in webhook_points})
