"""A restart of the embedded mode: the rows alone know what has not ended."""

from gateway.database.engine import Database
from gateway.database.repositories import JobRepository
from gateway.relay import Relay
from gateway.resumption import resume
from gateway.tracker import fold_facts
from shared.broker.memory import MemoryBroker
from shared.contracts.events import WebhookAttempted
from shared.contracts.messages import StageMessage, WebhookMessage
from shared.storage.directory import DirectoryStore
from tests.support.gateway_rows import (
    LINKS,
    TENANT,
    FakeClock,
    completed,
    deliveries_of,
    insert,
    job_of,
    manifest_of,
    outbox_of,
    relay_settings,
    started,
)


async def restart(database: Database, store: DirectoryStore) -> MemoryBroker:
    """A fresh broker, after `resume` and the relay's first round."""
    broker = MemoryBroker()
    await resume(database, LINKS)
    await Relay(database, broker, store, relay_settings()).run_once()
    return broker


def messages(broker: MemoryBroker, queue: str) -> list[bytes]:
    return [message.publication.body for message in broker.server.queues[queue].ready]


async def begun(database: Database, store: DirectoryStore) -> str:
    """A job in its second step."""
    job_id = await insert(database)
    await Relay(database, MemoryBroker(), store, relay_settings()).run_once()
    async with database.write() as rows:
        await fold_facts(rows, [completed(manifest_of(job_id, 0)), started(job_id, 1)], LINKS, {})
    return job_id


async def test_an_unfinished_job_goes_on_at_its_step(database: Database, store: DirectoryStore) -> None:
    """Its message is published again, and says that it was resumed."""
    job_id = await begun(database, store)
    broker = await restart(database, store)
    message = StageMessage.model_validate_json(messages(broker, "stage.sfm")[0])
    assert (message.job_id, message.position, message.resumed) == (job_id, 1, 1)


async def test_a_job_resumed_five_times_at_one_step_is_given_up(database: Database, store: DirectoryStore) -> None:
    """The fifth restart in the same step ends it as WORKER_LOST."""
    job_id = await begun(database, store)
    resumed = []
    for _ in range(4):
        resumed += messages(await restart(database, store), "stage.sfm")
    assert [StageMessage.model_validate_json(body).resumed for body in resumed] == [1, 2, 3, 4]
    assert messages(await restart(database, store), "stage.sfm") == []
    job = await job_of(database, job_id)
    assert (job.status, job.error["code"], job.error["stage"]) == ("failed", "WORKER_LOST", "sfm")


async def test_restarts_are_counted_per_step(database: Database, store: DirectoryStore) -> None:
    """A job that got on begins to count afresh; one that only waited is not counted."""
    job_id = await begun(database, store)
    for _ in range(4):
        await restart(database, store)
    async with database.write() as rows:
        await fold_facts(rows, [completed(manifest_of(job_id, 1))], LINKS, {})
    for _ in range(6):
        broker = await restart(database, store)
    assert StageMessage.model_validate_json(messages(broker, "stage.export")[0]).resumed == 0


async def test_a_waiting_job_is_published_once(database: Database, store: DirectoryStore) -> None:
    """Its first row is the relay's matter; nothing is added to it."""
    await insert(database)
    broker = await restart(database, store)
    assert len(messages(broker, "stage.ingest")) == 1


async def test_a_delivery_not_ended_goes_on_with_its_schedule(
    database: Database, repository: JobRepository, store: DirectoryStore, clock: FakeClock
) -> None:
    """At the attempt that was due; one that arrived is not called again."""
    job_id, other = await insert(database), await insert(database)
    for each in (job_id, other):
        await repository.cancel_job(TENANT, each)
    await Relay(database, MemoryBroker(), store, relay_settings()).run_once()
    (delivery,), (delivered,) = await deliveries_of(database, job_id), await deliveries_of(database, other)
    async with database.write() as rows:
        event = WebhookAttempted(job_id=job_id, delivery_id=delivery.id, attempt_id="x", at=clock.now, status_code=500, outcome="failed")
        await fold_facts(
            rows,
            [event, event.model_copy(update={"job_id": other, "delivery_id": delivered.id, "attempt_id": "y", "outcome": "delivered"})],
            LINKS,
            {},
        )
    broker = await restart(database, store)
    (message,) = [WebhookMessage.model_validate_json(body) for body in messages(broker, "webhooks.deliver")]
    assert (message.delivery_id, message.attempt) == (delivery.id, 2)


async def test_a_delivery_never_sent_is_sent_once(database: Database, repository: JobRepository, store: DirectoryStore) -> None:
    """Its own row is still there: none is added."""
    job_id = await insert(database)
    await repository.cancel_job(TENANT, job_id)
    assert len(messages(await restart(database, store), "webhooks.deliver")) == 1
    assert [row.kind for row in await outbox_of(database, job_id)] == ["tidy"]


async def test_a_row_that_a_killed_process_held_is_worked_at_once(database: Database, store: DirectoryStore) -> None:
    """Leases of the process before are void: there is only one."""
    job_id = await insert(database)
    async with database.write() as rows:
        row = (await outbox_of(database, job_id))[0]
        await rows.session.merge(row)
        row.lease_owner, row.lease_until = "dead", rows.now.replace(year=2027)
        await rows.session.merge(row)
    assert len(messages(await restart(database, store), "stage.ingest")) == 1
