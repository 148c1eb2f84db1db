"""Everything at once: no job is lost, none is stuck, none is done twice."""

import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from deploy.demo.receiver import CallerBackend
from deploy.native.mesh import ROOT
from shared.storage.minio import MinioStore
from shared.thread_count import allowed_cores
from tests.chaos.jobs import Webhooks, faults_in_store, faults_of, patiently, unfinished
from tests.chaos.mesh import ChaosMesh, Proxies
from tests.chaos.stand_ins import Mvs
from tests.chaos.storm import FULL, QUICK, RECEIVER, Events, rage, send_jobs
from tests.support.eventually import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
RESULTS = Path(__file__).with_name("RESULTS.md")


@pytest.fixture
def receiver(backend: CallerBackend) -> Iterator[Proxies]:
    """The way to the caller's backend."""
    with Proxies({RECEIVER: urlsplit(backend.url).port or 0}) as proxies:
        yield proxies


async def test_a_storm_loses_nothing(
    mesh: ChaosMesh,
    api: httpx.Client,
    receiver: Proxies,
    webhooks: Webhooks,
    store: MinioStore,
    full: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every accepted job completes with its own model; one webhook by id, delivered; each step committed once, all of one chain.

    No message is given up: a job that is whole could hide one.
    """
    parked = await mesh.parked()
    storm, events, job_ids, began = FULL if full else QUICK, Events(), [], time.monotonic()
    mesh.scale(Mvs.name, 2)  # who share its parts
    hook = f"http://127.0.0.1:{receiver.port(RECEIVER)}/hook"
    sender = threading.Thread(target=send_jobs, args=(api, hook, storm, job_ids), daemon=True)
    sender.start()
    rage(mesh, receiver, api, storm, events)
    wait_until(lambda: not sender.is_alive(), timeout_s=storm.seconds + 300, interval_s=1)

    _until_none_is_left(lambda left: unfinished(api, left), job_ids, timeout_s=storm.seconds + 300)
    seconds = time.monotonic() - began
    wait_until(lambda: webhooks.collect() or len(webhooks.calls) == len(job_ids), timeout_s=300, interval_s=1)
    _until_none_is_left(lambda left: _undelivered(api, left), job_ids, timeout_s=120)

    faults = [fault for job_id in job_ids for fault in faults_of(api, job_id, webhooks)]
    faults += [fault for job_id in job_ids for fault in await faults_in_store(store, job_id)]
    ended = Counter(patiently(api, "GET", f"/api/v1/jobs/{job_id}").json()["status"] for job_id in job_ids)
    table = events.table(storm, seconds, ended, Counter(len(webhooks.calls[job_id]) for job_id in job_ids))
    with capsys.disabled():
        print(f"\n{table}")
    mesh.renew(Mvs.name)
    assert faults == []
    assert await mesh.parked() == parked
    assert (len(set(job_ids)), events.counts.total()) == (storm.jobs, storm.events)
    if full:
        said = f"Written by `make chaos`, seed {storm.seed}: nothing lost, nothing stuck, nothing done twice, nothing given up."
        RESULTS.write_text(f"# The last storm\n\n{said}\n\n{_circumstances(mesh)}\n\n{table}\n")


def _circumstances(mesh: ChaosMesh) -> str:
    """When, of what, and on what."""
    broker = mesh.rabbitmq.management.call("GET", "overview")["rabbitmq_version"]
    machine = f"{allowed_cores()} cores, load {os.getloadavg()[0]:.1f} at the end"
    return f"{datetime.now(UTC):%Y-%m-%d}, commit {_commit()}, RabbitMQ {broker}, {machine}."


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    said = subprocess.run([git, "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    return said.stdout.strip() or "unknown"


def _until_none_is_left(which: Callable[[list[str]], list[str]], job_ids: list[str], timeout_s: float) -> None:
    """Asks again and again which jobs are left, and after none that was not."""
    left = job_ids

    def done() -> bool:
        nonlocal left
        left = which(left)
        return not left

    wait_until(done, timeout_s=timeout_s, interval_s=2)


def _undelivered(api: httpx.Client, job_ids: list[str]) -> list[str]:
    """Jobs whose webhook's last call is not recorded yet."""
    left = []
    for job_id in job_ids:
        deliveries = patiently(api, "GET", f"/api/v1/jobs/{job_id}/webhooks").json()["deliveries"]
        if any(delivery["status"] == "pending" for delivery in deliveries):
            left.append(job_id)
    return left
