"""The tracker between a broker, a store and the rows."""

import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from gateway.database.engine import Database
from gateway.database.repositories import JobRepository
from gateway.tracker import Tracker
from shared.broker.memory import MemoryBroker
from shared.contracts.events import WebhookAttempted
from shared.contracts.messages import WebhookMessage
from shared.contracts.routing import (
    DEAD_EXCHANGE,
    DEAD_TRACKER_QUEUE,
    EVENTS_EXCHANGE,
    HEADER_CODE,
    HEADER_JOB,
    HEADER_REASON,
    HEADER_STEP,
    TRACKER_QUEUE,
)
from shared.errors import DependencyUnavailable
from shared.ports import Publication
from shared.storage.directory import DirectoryStore
from tests.support.builders import a_message, a_slip
from tests.support.eventually import eventually
from tests.support.gateway_rows import (
    LINKS,
    STEPS,
    TENANT,
    completed,
    deliveries_of,
    insert,
    job_of,
    manifest_of,
    started,
    store_manifest,
    told,
)


@pytest.fixture
async def tracker(database: Database, broker: MemoryBroker, store: DirectoryStore) -> AsyncIterator[Tracker]:
    tracker = Tracker(database, broker, store, LINKS)
    await tracker.start()
    yield tracker
    await tracker.stop()


async def status_is(database: Database, job_id: str, status: str) -> None:
    async def has_status() -> bool:
        return (await job_of(database, job_id)).status == status

    await eventually(has_status)


async def settled(broker: MemoryBroker) -> None:
    """Everything for the tracker was taken and acked."""
    queue = broker.server.queues[TRACKER_QUEUE]
    await eventually(lambda: not queue.ready and all(not consumer._held for consumer in queue.consumers))


async def finish(database: Database, broker: MemoryBroker, store: DirectoryStore, job_id: str) -> None:
    """Tells of all three steps, last first."""
    for position in (2, 1, 0):
        await broker.publish(told(completed(await store_manifest(store, manifest_of(job_id, position)))))


def dead_letter(job_id: str, body: bytes, key: str = "stage.sfm", **headers: str) -> Publication:
    return Publication(DEAD_EXCHANGE, key, body, str(uuid.uuid4()), headers=headers)


@pytest.mark.usefixtures("tracker")
async def test_a_job_completes_by_what_workers_tell(database: Database, broker: MemoryBroker, store: DirectoryStore) -> None:
    """Events and manifests become a completed job; every message is settled."""
    job_id = await insert(database)
    await broker.publish(told(started(job_id, 0)))
    await status_is(database, job_id, "processing")
    await finish(database, broker, store, job_id)
    await status_is(database, job_id, "completed")
    await settled(broker)


@pytest.mark.usefixtures("tracker")
async def test_a_batch_of_many_jobs_is_folded_at_once(database: Database, broker: MemoryBroker, store: DirectoryStore) -> None:
    """More events than a batch holds, of several jobs, none forgotten."""
    job_ids = [await insert(database) for _ in range(15)]
    for job_id in job_ids:
        for _ in range(5):
            await broker.publish(told(started(job_id, 0)))
        await finish(database, broker, store, job_id)
    for job_id in job_ids:
        await status_is(database, job_id, "completed")


@pytest.mark.usefixtures("tracker")
@pytest.mark.parametrize("readable", [True, False])
async def test_the_brokers_own_dead_letter_ends_the_job(database: Database, broker: MemoryBroker, readable: bool) -> None:
    """Without our headers the delivery limit was reached: WORKER_LOST. An unreadable body still names its job in its headers."""
    job_id = await insert(database)
    body = a_message(a_slip(STEPS), job_id, 1).to_bytes() if readable else b"\xff not json"
    headers = {} if readable else {HEADER_JOB: job_id, HEADER_STEP: "sfm"}
    await broker.publish(dead_letter(job_id, body, "10s.stage.sfm", **headers))
    await status_is(database, job_id, "failed")
    error = (await job_of(database, job_id)).error
    assert (error["code"], error["stage"]) == ("WORKER_LOST", "sfm")


@pytest.mark.usefixtures("tracker")
async def test_a_workers_dead_letter_ends_the_job_with_its_reason(database: Database, broker: MemoryBroker) -> None:
    """Code and sentence come from the headers."""
    job_id = await insert(database)
    headers = {HEADER_JOB: job_id, HEADER_STEP: "sfm", HEADER_CODE: "STAGE_TIMEOUT", HEADER_REASON: "sfm took longer than 60 s"}
    await broker.publish(dead_letter(job_id, b"{}", **headers))
    await status_is(database, job_id, "failed")
    error = (await job_of(database, job_id)).error
    assert (error["code"], error["message"], error["retryable"]) == ("STAGE_TIMEOUT", "sfm took longer than 60 s", True)


@pytest.mark.usefixtures("tracker")
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"\xff", b"[]", b'{"type": "stage.unheard_of", "job_id": "x"}', b'{"type": "stage.started"}', b"[" * 5000),
        started("x", 0).to_bytes().replace(b'"x"', b'""'),
        started("x", 0).to_bytes().replace(b'"x"', b'"\\ud800"'),
    ],
)
async def test_what_nobody_can_read_is_parked(database: Database, broker: MemoryBroker, body: bytes) -> None:
    """It goes to dead.tracker as it came, with the reason, and the next message is worked."""
    await broker.publish(Publication(EVENTS_EXCHANGE, "stage.sfm.started", body, "odd", headers={HEADER_JOB: "x"}))
    job_id = await insert(database)
    await broker.publish(told(started(job_id, 0)))
    await status_is(database, job_id, "processing")
    parked = broker.server.queues[DEAD_TRACKER_QUEUE].ready
    assert [message.publication.body for message in parked] == [body]
    assert parked[0].headers[HEADER_REASON] and parked[0].headers[HEADER_JOB] == "x"
    await settled(broker)


class FlakyStore(DirectoryStore):
    """A store that is away until told otherwise."""

    away = True

    async def get(self, key: str, max_bytes: int = 64 << 20) -> bytes:
        if self.away:
            raise DependencyUnavailable("the store is away")
        return await super().get(key, max_bytes)


async def test_while_the_store_is_away_nothing_is_lost(database: Database, broker: MemoryBroker, store: DirectoryStore) -> None:
    """The batch waits, unacked, and is folded when the store is back."""
    flaky = FlakyStore(store._root)
    tracker = Tracker(database, broker, flaky, LINKS)
    await tracker.start()
    job_id = await insert(database)
    await finish(database, broker, store, job_id)
    await eventually(lambda: broker.server.depth(TRACKER_QUEUE) == 0)
    assert (await job_of(database, job_id)).status == "queued"
    flaky.away = False
    await status_is(database, job_id, "completed")
    await tracker.stop()


async def test_a_tracker_that_stops_gives_back_what_it_did_not_fold(
    database: Database, broker: MemoryBroker, store: DirectoryStore
) -> None:
    """Another replica takes over with nothing missing."""
    flaky, other = FlakyStore(store._root), MemoryBroker(broker.server)
    stopping = Tracker(database, other, flaky, LINKS)
    await stopping.start()
    job_id = await insert(database)
    await finish(database, broker, store, job_id)
    await eventually(lambda: broker.server.depth(TRACKER_QUEUE) == 0)
    await stopping.stop()
    await other.close()
    tracker = Tracker(database, broker, store, LINKS)
    await tracker.start()
    await status_is(database, job_id, "completed")
    await tracker.stop()


@pytest.mark.usefixtures("tracker")
async def test_a_lost_connection_repeats_and_changes_nothing(database: Database, broker: MemoryBroker, store: DirectoryStore) -> None:
    """Redelivered events fold to the same row, with one webhook."""
    job_id = await insert(database)
    await finish(database, broker, store, job_id)
    broker.drop_connection()
    await status_is(database, job_id, "completed")
    broker.drop_connection()
    await settled(broker)
    assert [row.type for row in await deliveries_of(database, job_id)] == ["job.completed"]


def attempted(job_id: str, delivery_id: str, outcome: str, attempt_id: str | None = None, error: str | None = None) -> Publication:
    event = WebhookAttempted.model_validate(
        {
            "job_id": job_id,
            "delivery_id": delivery_id,
            "attempt_id": attempt_id or str(uuid.uuid4()),
            "at": datetime.now(UTC),
            "outcome": outcome,
            "error": error,
        }
    )
    return told(event)


@pytest.mark.usefixtures("tracker")
async def test_the_delivery_log_lists_each_call_once(database: Database, broker: MemoryBroker, repository: JobRepository) -> None:
    """Attempts are rows; told twice, listed once; delivered outranks parked, whatever comes last."""
    job_id = await insert(database)
    await repository.cancel_job(TENANT, job_id)
    delivery_id = (await deliveries_of(database, job_id))[0].id
    repeated = attempted(job_id, delivery_id, "failed", "same", "500\0")
    for publication in (repeated, repeated, attempted(job_id, delivery_id, "delivered"), attempted(job_id, delivery_id, "parked")):
        await broker.publish(publication)
    await broker.publish(attempted(job_id, "gone", "delivered"))
    await settled(broker)
    record = (await repository.deliveries_of(TENANT, job_id))[0]
    assert (record.delivery.status, len(record.attempts)) == ("delivered", 3)


@pytest.mark.usefixtures("tracker")
@pytest.mark.parametrize(("replay", "status"), [("", "parked"), ("r1", "pending")])
async def test_a_dead_webhook_parks_its_delivery_and_not_its_job(
    database: Database, broker: MemoryBroker, repository: JobRepository, replay: str, status: str
) -> None:
    """The job keeps its ending; a replay that was given up says nothing about the schedule."""
    job_id = await insert(database)
    await repository.cancel_job(TENANT, job_id)
    delivery_id = (await deliveries_of(database, job_id))[0].id
    message = WebhookMessage(
        job_id=job_id, delivery_id=delivery_id, type="job.cancelled", url="https://a.test", sealed_secrets="x", replay=replay
    )
    await broker.publish(dead_letter(job_id, message.to_bytes(), "webhooks.deliver", **{HEADER_CODE: "WORKER_LOST"}))
    await settled(broker)
    assert ((await job_of(database, job_id)).status, (await deliveries_of(database, job_id))[0].status) == ("cancelled", status)
    assert json.loads((await deliveries_of(database, job_id))[0].body)["type"] == "job.cancelled"


async def test_a_message_that_breaks_the_tracker_holds_up_nobody(
    database: Database, broker: MemoryBroker, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is parked alone; the rest of its batch is folded."""
    from gateway import tracker as module

    original, poisoned, healthy = module.fold_facts, await insert(database), await insert(database)

    async def breaking(rows: object, facts: list[object], *rest: object) -> None:
        if any(fact.job_id == poisoned for fact in facts):  # type: ignore[attr-defined]
            raise ZeroDivisionError
        await original(rows, facts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "fold_facts", breaking)
    tracker = Tracker(database, broker, store, LINKS)
    await broker.publish(told(started(poisoned, 0)))
    await broker.publish(told(started(healthy, 0)))
    await tracker.start()
    await status_is(database, healthy, "processing")
    await eventually(lambda: broker.server.depth(DEAD_TRACKER_QUEUE) == 1)
    await tracker.stop()
