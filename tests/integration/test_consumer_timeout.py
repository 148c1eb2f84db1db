"""A broker that takes a delivery back from a worker process that holds it for too long, and one whose queue somebody deletes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared.broker.topology import V3_10, generation
from shared.contracts.messages import StageMessage
from tests.integration.rabbitmq_node import Node, running_node
from tests.integration.workers import WorkerMesh, ingesting, pids_in, worker_mesh
from tests.support.builders import a_message
from tests.support.eventually import eventually
from tests.support.liveness import is_running
from tests.support.servers import S3Server

TIMEOUT_MS = 3000
LOOKED_AT_MS = 1000  # how often a channel looks whether it is over; the broker's default is a minute


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Its consumer timeout is shorter than the stage: of the configuration on 3.10, of the queue's policy from 3.12 on."""
    with running_node(f"consumer_timeout = {TIMEOUT_MS}\n", f"-rabbit channel_tick_interval {LOOKED_AT_MS}") as node:
        management = node.management
        if generation(management.call("GET", "overview")["rabbitmq_version"]) != V3_10:
            usual = management.call("GET", "policies/meshwork/stages")
            definition = {**usual["definition"], "consumer-timeout": TIMEOUT_MS}
            management.call("PUT", "policies/meshwork/stages", {**usual, "definition": definition})
        yield node


@pytest.fixture(scope="module")
async def mesh(node: Node, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkerMesh]:
    async with worker_mesh(node.url, s3_server, "consumer-timeout", tmp_path_factory.mktemp("work")) as mesh:
        yield mesh


async def is_done_once(mesh: WorkerMesh, message: StageMessage) -> None:
    """One manifest of one attempt, told once."""
    await eventually(lambda: mesh.completed(message.job_id), 60)
    manifests = [name for name in await mesh.step_files(message) if name.endswith("manifest.json")]
    assert len(manifests) == 2  # the step's and the winning attempt's
    assert len(mesh.completed(message.job_id)) == 1
    assert (await mesh.step_manifest(message)).tries == 1


async def test_a_worker_outlives_the_consumer_timeout_and_the_loss_of_its_queue(mesh: WorkerMesh, node: Node, tmp_path: Path) -> None:
    """Timed out: what it computes ends, it consumes again, and does the step once. The queue gone: it declares it and goes on."""
    worker = mesh.worker("ingest")
    await worker.ready()
    message = ingesting(tmp_path / "diary", behaviour="hang_once")
    await mesh.submit(message)
    timed_out = (await eventually(lambda: pids_in(tmp_path / "diary"), 20))[0]

    await eventually(lambda: not is_running(timed_out), 30)
    await is_done_once(mesh, message)
    assert len(pids_in(tmp_path / "diary")) == 2
    metrics = worker.ask("/metrics")
    assert metrics is not None and 'settlement="lease_lost"' in metrics.text

    await asyncio.to_thread(node.management.call, "DELETE", "queues/meshwork/stage.ingest")
    again = a_message()
    await mesh.submit(again)
    await is_done_once(mesh, again)
    assert worker.process.poll() is None
