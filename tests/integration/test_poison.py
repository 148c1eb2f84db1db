"""Messages that do harm, on a real broker and a real store, to worker processes: each ends in `dead.<stage>` and says why, and the queue
moves on."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from shared.broker.topology import build_topology
from shared.contracts.messages import SPLIT_VERSION, StageMessage
from shared.contracts.routing import HEADER_CODE, HEADER_JOB, HEADER_NEWER, HEADER_REASON, HEADER_STEP, RETRY_DELAYS_S, dead_queue
from shared.ports import Delivery, Publication
from shared.runtime.reading import MAX_NEWER
from shared.runtime.turn import MAX_LOST_WORKERS, MAX_TRIES
from tests.integration.workers import WorkerMesh, WorkerProcess, ingesting, pids_in, worker_mesh
from tests.support.brokers import Inbox, make_vhost
from tests.support.builders import a_message, a_publication
from tests.support.eventually import eventually
from tests.support.servers import BrokerServer, S3Server, unique

INGEST = "stage.ingest"
HURRIED = build_topology({**RETRY_DELAYS_S, "10s": 0.1, "1m": 0.1})  # as deployed, but what is put back is back at once


@pytest.fixture(scope="module")
async def mesh(rabbitmq_server: BrokerServer, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkerMesh]:
    vhost = unique("poison")
    await asyncio.to_thread(make_vhost, rabbitmq_server, vhost, HURRIED)
    async with worker_mesh(rabbitmq_server.url(vhost), s3_server, "poison", tmp_path_factory.mktemp("work")) as mesh:
        yield mesh
    await asyncio.to_thread(rabbitmq_server.management.drop_vhost, vhost)


@pytest.fixture(scope="module")
async def parked(mesh: WorkerMesh) -> Inbox:
    """What comes to `dead.ingest`."""
    inbox = Inbox()
    await mesh.broker.subscribe(dead_queue(INGEST), inbox, prefetch=100)
    return inbox


@pytest.fixture(scope="module")
async def worker(mesh: WorkerMesh) -> WorkerProcess:
    """One that takes all of the poison but what kills it."""
    worker = mesh.worker("ingest")
    await worker.ready()
    return worker


def about(job_id: str, deliveries: list[Delivery]) -> list[Delivery]:
    return [delivery for delivery in deliveries if delivery.headers.get(HEADER_JOB) == job_id]


async def is_given_up(mesh: WorkerMesh, parked: Inbox, job_id: str, code: str, reason: str) -> Delivery:
    """Once, as it came, with code and reason; the tracker gets the same, which is how the job's failure is told."""
    await eventually(lambda: about(job_id, parked.deliveries) and about(job_id, mesh.dead_letters), 90, 0.1)
    (evidence,), (told,) = about(job_id, parked.deliveries), about(job_id, mesh.dead_letters)
    for delivery in (evidence, told):
        assert (delivery.headers[HEADER_CODE], delivery.headers[HEADER_STEP]) == (code, "ingest")
        assert reason in str(delivery.headers[HEADER_REASON])
    assert (told.body, mesh.completed(job_id)) == (evidence.body, [])
    return evidence


def as_published(message: StageMessage, body: bytes) -> Publication:
    """The relay's publication of the message, with another body."""
    return replace(a_publication(message), body=body)


def with_id(job_id: str) -> bytes:
    """A message that is whole but for its job's id."""
    return json.dumps({**json.loads(a_message().to_bytes()), "job_id": job_id}).encode()


async def the_next_one_completes(mesh: WorkerMesh) -> None:
    message = a_message()
    await mesh.submit(message)
    await eventually(lambda: mesh.completed(message.job_id), 60)


async def test_a_stage_that_always_crashes_is_tried_three_times(
    mesh: WorkerMesh, parked: Inbox, worker: WorkerProcess, tmp_path: Path
) -> None:
    """Each time in a child of its own, counted in the message; then it is given up, and the worker that took it goes on."""
    message = ingesting(tmp_path / "diary", behaviour="abort")
    await mesh.submit(message)

    evidence = await is_given_up(mesh, parked, message.job_id, "INTERNAL", "the child process ended by signal SIGABRT")

    assert StageMessage.model_validate_json(evidence.body).attempt == MAX_TRIES
    assert len(set(pids_in(tmp_path / "diary"))) == len(pids_in(tmp_path / "diary")) == MAX_TRIES
    await the_next_one_completes(mesh)
    assert worker.process.poll() is None


async def test_a_message_that_nobody_is_upgraded_for_is_given_up_after_its_limit(
    mesh: WorkerMesh, parked: Inbox, worker: WorkerProcess
) -> None:
    """It is put back for a newer worker, uncounted, as often as there are minutes in an hour; the queue never stands still for it."""
    message = a_message()
    newer = json.dumps({**json.loads(message.to_bytes()), "schema_version": SPLIT_VERSION + 1, "of_tomorrow": True}).encode()
    await mesh.broker.publish(as_published(message, newer))
    await the_next_one_completes(mesh)

    evidence = await is_given_up(mesh, parked, message.job_id, "INTERNAL", f"schema version {SPLIT_VERSION + 1} is newer")

    assert (evidence.body, evidence.headers[HEADER_NEWER]) == (newer, MAX_NEWER)
    await the_next_one_completes(mesh)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xff not json", "the message is not a JSON object"),
        (b'["json", "but no object"]', "the message is not a JSON object"),
        (b'{"schema_version": 1, "position": 0, "slip": {}}', "the message is no stage message: job_id: Field required"),
        (with_id(""), "the message is no stage message: job_id: String should match pattern"),
        (with_id("\ud800"), "the message is no stage message: Invalid JSON: unexpected end of hex escape"),
    ],
)
async def test_a_message_that_nobody_can_read_is_given_up_at_once(
    mesh: WorkerMesh, parked: Inbox, worker: WorkerProcess, body: bytes, reason: str
) -> None:
    """Job and step travel in its headers."""
    message = a_message()
    await mesh.broker.publish(as_published(message, body))
    evidence = await is_given_up(mesh, parked, message.job_id, "INTERNAL", reason)
    assert evidence.body == body
    await the_next_one_completes(mesh)


async def test_a_message_that_always_kills_its_worker_is_given_up_by_the_sixth(mesh: WorkerMesh, parked: Inbox, tmp_path: Path) -> None:
    """The broker counts the workers that are lost with it: who gets it next gives it up before any work, and goes on."""
    mesh.end_workers()
    message = ingesting(tmp_path / "diary", behaviour="kill_worker")
    await mesh.submit(message)
    workers = [mesh.worker("ingest")]

    def is_parked() -> bool:
        if workers[-1].process.poll() is not None:
            workers.append(mesh.worker("ingest"))
        return bool(about(message.job_id, parked.deliveries))

    await eventually(is_parked, 120, 0.1)
    evidence = await is_given_up(mesh, parked, message.job_id, "WORKER_LOST", f"{MAX_LOST_WORKERS} workers were lost")

    assert (len(pids_in(tmp_path / "diary")), len(workers)) == (MAX_LOST_WORKERS, MAX_LOST_WORKERS + 1)
    assert StageMessage.model_validate_json(evidence.body) == message
    await the_next_one_completes(mesh)
    assert workers[-1].process.poll() is None
