"""Worker processes on a real broker and a real store: killed, told to leave, started too early."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from deploy.native.process import free_port
from shared.contracts.manifest import Manifest
from shared.contracts.messages import StageMessage
from shared.storage import keys
from tests.integration.workers import STAGES, WorkerMesh, ingesting, pids_in, worker_mesh
from tests.support.builders import a_message
from tests.support.eventually import eventually
from tests.support.liveness import is_running
from tests.support.proxy import TcpProxy
from tests.support.servers import S3Server

PARTITIONED = "partitioned:SixLetters"  # of ingest


@pytest.fixture(scope="module")
async def mesh(amqp_url: str, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkerMesh]:
    async with worker_mesh(amqp_url, s3_server, "worker-processes", tmp_path_factory.mktemp("work")) as mesh:
        yield mesh


@pytest.fixture(autouse=True)
def no_workers_left(mesh: WorkerMesh) -> Iterator[None]:
    yield
    mesh.end_workers()


def slow(tmp_path: Path, seconds: float = 3.0, **params: Any) -> StageMessage:
    return ingesting(tmp_path / "diary", seconds=seconds, **params)


def diary(tmp_path: Path) -> list[int]:
    return pids_in(tmp_path / "diary")


async def test_a_job_goes_through_three_processes(mesh: WorkerMesh) -> None:
    """Every step is committed, verified and forwarded over the real servers; probes and metrics answer."""
    workers = [mesh.worker(stage) for stage in STAGES]
    message = a_message()

    await mesh.submit(message)
    await eventually(lambda: len(mesh.completed(message.job_id)) == 3, 60)

    last = Manifest.model_validate_json(await mesh.store.get(keys.step_manifest(message.job_id, 2, "sfm")))
    out = await mesh.store.get(keys.attempt_file(message.job_id, 2, "sfm", last.attempt, "out.txt"))
    assert out == b"ingest:word;ingest:word;segmentation:word;sfm:word;"
    assert [link.step for link in last.chain] == ["ingest", "segmentation"]
    for worker in workers:
        await worker.ready()
        metrics = worker.ask("/metrics")
        assert metrics is not None
        assert 'settlement="done"' in metrics.text


async def test_a_killed_worker_loses_nothing(mesh: WorkerMesh, tmp_path: Path) -> None:
    """kill -9 while it computes: its child dies with it, another worker completes the step, once."""
    first = mesh.worker("ingest")
    await first.ready()
    message = slow(tmp_path)
    await mesh.submit(message)
    child = (await eventually(lambda: diary(tmp_path), 20))[0]

    os.kill(first.process.pid, signal.SIGKILL)
    await eventually(lambda: not is_running(child), 5)
    mesh.worker("ingest")
    await eventually(lambda: mesh.completed(message.job_id), 60)

    assert len(diary(tmp_path)) == 2
    assert len(mesh.completed(message.job_id)) == 1
    manifests = [name for name in await mesh.step_files(message) if name.endswith("manifest.json")]
    assert len(manifests) == 2  # the step's and the winning attempt's


async def test_a_killed_worker_costs_only_its_part(mesh: WorkerMesh, tmp_path: Path) -> None:
    """kill -9 of one of two that share a step: only the part that it was at is computed again."""
    first, second = mesh.worker(PARTITIONED), mesh.worker(PARTITIONED)
    await asyncio.gather(first.ready(), second.ready())
    message = slow(tmp_path, seconds=1.0)
    await mesh.submit(message)
    await eventually(lambda: len(diary(tmp_path)) >= 3, 30)

    first.kill()
    await eventually(lambda: mesh.completed(message.job_id), 60)

    made = Manifest.model_validate_json(await mesh.store.get(keys.step_manifest(message.job_id, 0, "ingest")))
    assert await mesh.store.get(keys.attempt_file(message.job_id, 0, "ingest", made.attempt, "out.txt")) == b"abcdef"
    assert [link.part for link in made.parts] == list("abcdef")
    assert len(diary(tmp_path)) <= 7
    assert len({line.split()[0] for line in (tmp_path / "diary").read_text().splitlines()}) == 2


async def test_a_worker_told_to_leave_hands_back_at_once(mesh: WorkerMesh, tmp_path: Path) -> None:
    """SIGTERM while it computes: gone well within the grace period; the step is done by another, uncounted."""
    first = mesh.worker("ingest")
    await first.ready()
    message = slow(tmp_path, seconds=5)
    await mesh.submit(message)
    await eventually(lambda: diary(tmp_path), 20)

    told_at = time.monotonic()
    first.process.terminate()
    code = await asyncio.to_thread(first.process.wait, 10)
    left_after_s = time.monotonic() - told_at
    mesh.worker("ingest")
    await eventually(lambda: mesh.completed(message.job_id), 60)

    manifest = Manifest.model_validate_json(await mesh.store.get(keys.step_manifest(message.job_id, 0, "ingest")))
    assert (code, manifest.tries) == (0, 1)
    assert left_after_s < 5


async def test_a_cut_connection_ends_the_child_and_the_step_is_done_once(mesh: WorkerMesh, tmp_path: Path) -> None:
    """The worker's connections break while it computes: that computation ends, the redelivery completes the step."""
    broker = urlsplit(mesh.environment["MESHWORK_AMQP_URL"])
    async with TcpProxy(broker.hostname or "", broker.port or 5672) as proxy:
        through_proxy = broker._replace(netloc=f"{broker.username}:{broker.password}@127.0.0.1:{proxy.port}").geturl()
        worker = mesh.worker("ingest", MESHWORK_AMQP_URL=through_proxy)
        await worker.ready()
        message = slow(tmp_path)
        await mesh.submit(message)
        child = (await eventually(lambda: diary(tmp_path), 20))[0]

        proxy.cut()

        await eventually(lambda: not is_running(child), 10)
        await eventually(lambda: mesh.completed(message.job_id), 60)
        assert len(diary(tmp_path)) == 2
        assert len([name for name in await mesh.step_files(message) if name.endswith("manifest.json")]) == 2
        worker.kill()


async def test_an_idle_worker_leaves_at_once(mesh: WorkerMesh) -> None:
    """SIGTERM without work ends the process cleanly."""
    worker = mesh.worker("sfm")
    await worker.ready()

    worker.process.terminate()

    assert await asyncio.to_thread(worker.process.wait, 5) == 0


async def test_a_cancelled_job_frees_its_worker_within_five_seconds(mesh: WorkerMesh, tmp_path: Path) -> None:
    """The child of a stopped job ends; the next job runs on the same worker."""
    worker = mesh.worker("ingest")
    await worker.ready()
    hanging, good = slow(tmp_path, behaviour="hang"), a_message()
    await mesh.submit(hanging)
    child = (await eventually(lambda: diary(tmp_path), 20))[0]

    await mesh.store.put(keys.stop(hanging.job_id), b"cancelled")
    await eventually(lambda: not is_running(child), 5)
    await mesh.submit(good)
    await eventually(lambda: mesh.completed(good.job_id), 30)

    assert not mesh.completed(hanging.job_id)


async def test_a_worker_that_starts_before_its_servers_waits(mesh: WorkerMesh) -> None:
    """It is alive, says that it is not ready, and leaves when told."""
    worker = mesh.worker(
        "ingest", MESHWORK_AMQP_URL=f"amqp://a:b@127.0.0.1:{free_port()}/x", MESHWORK_S3_ENDPOINT=f"http://127.0.0.1:{free_port()}"
    )

    alive = await eventually(lambda: worker.ask("/livez"), 30)
    ready = worker.ask("/readyz")

    assert alive is not None
    assert alive.status_code == 200
    assert ready is not None
    assert ready.status_code == 503
    unavailable = dict.fromkeys(("broker", "store", "disk", "consumer"), "unavailable")
    assert ready.json()["dependencies"] == unavailable
    worker.process.terminate()
    assert await asyncio.to_thread(worker.process.wait, 10) == 0


def test_a_stage_runs_by_hand_on_a_folder(tmp_path: Path) -> None:
    """`run FOLDER` needs no server: it prints the report and writes outputs; a permanent error is one sentence and its hint."""
    from tests.support.builders import a_request

    (tmp_path / "request.json").write_bytes(a_request("by-hand").to_bytes())
    command = [sys.executable, "-m", "tests.support.fake_worker", "fake_stage:FakeStage", "run", str(tmp_path), "--params"]

    good = subprocess.run([*command, '{"word": "hand"}'], capture_output=True, text=True, timeout=60, check=True)
    bad = subprocess.run([*command, '{"behaviour": "permanent"}'], capture_output=True, text=True, timeout=60, check=False)

    assert json.loads(good.stdout)["summary"]["images"] == 3
    assert (tmp_path / "outputs" / "out.txt").read_text() == "ingest:hand;"
    assert bad.returncode == 1
    assert "TOO_FEW_REGISTERED: Only 1 of 3 photos could be placed." in bad.stderr
    assert "Traceback" not in bad.stderr
