"""The relay between rows, store and broker."""

import asyncio
import hashlib
import json
from datetime import timedelta

import pytest

from gateway.carrying_out import Carrier
from gateway.database import outbox
from gateway.database.admission import admit
from gateway.database.engine import Database
from gateway.database.repositories import JobRepository
from gateway.relay import Relay
from shared.broker.memory import MemoryBroker
from shared.contracts.messages import StageMessage, WebhookMessage
from shared.contracts.request import JobRequest
from shared.contracts.routing import WEBHOOKS_QUEUE
from shared.errors import DependencyUnavailable
from shared.ports import Publication
from shared.sealing import unseal
from shared.storage import keys
from shared.storage.directory import DirectoryStore
from tests.support.eventually import eventually
from tests.support.gateway_rows import (
    SEAL_KEY,
    SECRET,
    TENANT,
    FakeClock,
    deliveries_of,
    insert,
    job_of,
    new_job,
    outbox_of,
    relay_settings,
)


@pytest.fixture
def relay(database: Database, broker: MemoryBroker, store: DirectoryStore) -> Relay:
    return Relay(database, broker, store, relay_settings())


def published(broker: MemoryBroker, queue: str = "stage.ingest") -> list[Publication]:
    return [message.publication for message in broker.server.queues[queue].ready]


class WatchfulBroker(MemoryBroker):
    """Notes which keys the store had when each message was published."""

    def __init__(self, store: DirectoryStore, away: bool = False) -> None:
        super().__init__()
        self.store, self.away = store, away
        self.there: list[list[str]] = []

    async def publish(self, publication: Publication) -> None:
        if self.away:
            raise DependencyUnavailable("the broker is away")
        self.there.append(list(await self.store.list(keys.JOBS)))
        await super().publish(publication)


async def test_an_inserted_job_is_published_at_once(database: Database, broker: MemoryBroker, store: DirectoryStore) -> None:
    """The relay wakes by the commit, long before it would look; the message is the first step's, and the request is in the store."""
    relay = Relay(database, broker, store, relay_settings(poll_s=3600))
    await relay.start()
    job_id = await insert(database)
    await eventually(lambda: published(broker))
    await relay.stop()
    message = StageMessage.model_validate_json(published(broker)[0].body)
    assert (message.job_id, message.position, message.attempt, message.step.name) == (job_id, 0, 1, "ingest")
    request = JobRequest.model_validate_json(await store.get(keys.request(job_id)))
    assert (request.job_id, request.created_at) == (job_id, (await job_of(database, job_id)).created_at)


async def test_what_a_message_needs_is_stored_before_it_is_published(
    database: Database, repository: JobRepository, store: DirectoryStore
) -> None:
    """request.json before the first step's message; stop and body before the webhook's."""
    broker = WatchfulBroker(store)
    relay = Relay(database, broker, store, relay_settings())
    job_id = await insert(database)
    await relay.run_once()
    await repository.cancel_job(TENANT, job_id)
    await relay.run_once()
    delivery_id = (await deliveries_of(database, job_id))[0].id
    assert broker.there[0] == [keys.request(job_id)]
    assert set(broker.there[1]) == {keys.request(job_id), keys.stop(job_id), keys.webhook_body(job_id, delivery_id)}
    assert await store.get(keys.stop(job_id)) == b"cancelled"


async def test_a_webhook_carries_its_schedule_and_sealed_secrets(
    database: Database, repository: JobRepository, relay: Relay, broker: MemoryBroker, store: DirectoryStore
) -> None:
    """The body in the store is the row's text; the message holds everything but the body."""
    job_id = await insert(database)
    await repository.cancel_job(TENANT, job_id)
    await relay.run_once()
    delivery = (await deliveries_of(database, job_id))[0]
    message = WebhookMessage.model_validate_json(published(broker, WEBHOOKS_QUEUE)[0].body)
    assert (message.delivery_id, message.type, message.url, message.attempt) == (
        delivery.id,
        "job.cancelled",
        "https://caller.test/hook",
        1,
    )
    assert (message.schedule_s, unseal(message.sealed_secrets, SEAL_KEY)) == ((10.0, 60.0), (SECRET,))
    body = await store.get(keys.webhook_body(job_id, delivery.id))
    assert (body.decode(), hashlib.sha256(body).hexdigest()) == (delivery.body, message.body_sha256)
    assert SECRET not in published(broker, WEBHOOKS_QUEUE)[0].body.decode()


async def test_a_webhook_tells_tenants_apart_and_names_none(
    database: Database, repository: JobRepository, relay: Relay, broker: MemoryBroker
) -> None:
    """Two of a tenant are of one, another's is not."""
    for tenant in ("acme", "acme", "rival"):
        await repository.cancel_job(tenant, await insert(database, new_job(tenant)))
    await relay.run_once()
    bodies = [publication.body.decode() for publication in published(broker, WEBHOOKS_QUEUE)]
    tenants = [WebhookMessage.model_validate_json(body).tenant for body in bodies]
    assert sorted(tenants.count(tenant) for tenant in tenants) == [1, 2, 2]
    assert all(tenants) and not any(name in body for name in ("acme", "rival") for body in bodies)


async def test_a_replay_is_one_call_of_the_same_delivery(
    database: Database, repository: JobRepository, relay: Relay, broker: MemoryBroker
) -> None:
    """The same delivery id, marked as a replay of its own, whatever the delivery's status."""
    job_id = await insert(database)
    await repository.cancel_job(TENANT, job_id)
    delivery_id = (await deliveries_of(database, job_id))[0].id
    for _ in range(2):
        await repository.replay(TENANT, job_id, delivery_id)
    await relay.run_once()
    messages = [WebhookMessage.model_validate_json(p.body) for p in published(broker, WEBHOOKS_QUEUE)]
    assert [message.delivery_id for message in messages] == [delivery_id] * 3
    assert len({message.replay for message in messages}) == 3 and messages[0].replay == ""
    assert len({message.message_id for message in messages}) == 3


async def test_a_crash_between_publish_and_mark_repeats_the_publish(
    database: Database, broker: MemoryBroker, store: DirectoryStore, clock: FakeClock
) -> None:
    """The row comes again when the dead relay's lease ends, with the same message id; not before, and not after."""
    await insert(database)
    relay, settings = Relay(database, broker, store, relay_settings()), relay_settings()
    async with database.write() as rows:
        from gateway.database.admission import admit

        await admit(rows, 8, 8)
        claims = await outbox.claim(rows, "dead", ("publish",), 8, settings.lease)
    await Carrier(database, broker, store, settings).carry_out(claims[0])
    assert await relay.run_once() == 0
    clock.pass_by(minutes=2)
    assert [await relay.run_once(), await relay.run_once()] == [1, 0]
    first, second = published(broker)
    assert first.message_id == second.message_id and first.body == second.body


async def test_work_is_stopped_while_the_broker_is_away(database: Database, repository: JobRepository, store: DirectoryStore) -> None:
    """`stop` needs the store alone; the webhook waits, and goes out when the broker is back."""
    broker = WatchfulBroker(store, away=True)
    relay = Relay(database, broker, store, relay_settings())
    job_id = await insert(database)
    await repository.cancel_job(TENANT, job_id)
    await relay.start()

    async def is_stopped() -> bool:
        return await store.exists(keys.stop(job_id))

    async def only_the_webhook_is_left() -> bool:
        return [row.kind for row in await outbox_of(database, job_id)] == ["webhook", "tidy"]

    await eventually(is_stopped)
    await eventually(only_the_webhook_is_left)
    broker.away = False
    await eventually(lambda: published(broker, WEBHOOKS_QUEUE))
    await relay.stop()


async def test_delete_leaves_two_marks_and_nothing_else(
    database: Database, repository: JobRepository, relay: Relay, store: DirectoryStore, broker: MemoryBroker, clock: FakeClock
) -> None:
    """Purged now, and again in a day for what a stalled worker wrote after the first time; no webhook."""
    job_id = await insert(database)
    other = await insert(database)
    await relay.run_once()
    await store.put(keys.attempt_file(job_id, 0, "ingest", "a", "photos/1.jpg"), b"x")
    await repository.delete_job(TENANT, job_id)
    await relay.run_once()
    marks = {keys.deleted(job_id), keys.stop(job_id)}
    assert set(await store.list(keys.job_prefix(job_id))) == marks
    assert await store.get(keys.stop(job_id)) == b"deleted"
    await store.put(keys.attempt_file(job_id, 0, "ingest", "late", "photos/1.jpg"), b"x")
    assert await relay.run_once() == 0
    clock.pass_by(days=1, seconds=1)
    await relay.run_once()
    assert set(await store.list(keys.job_prefix(job_id))) == marks
    assert await store.exists(keys.request(other))
    assert await outbox_of(database, job_id) == [] and published(broker, WEBHOOKS_QUEUE) == []


async def test_what_parts_made_is_removed_an_hour_after_the_end(
    database: Database, repository: JobRepository, relay: Relay, store: DirectoryStore, clock: FakeClock
) -> None:
    """What a step made stays; nothing that is to be sent waits for it."""
    job_id = await insert(database)
    of_part = keys.part_file(job_id, 3, "mvs", "split", "views-000", "attempt", "map.npz")
    of_step = keys.attempt_file(job_id, 3, "mvs", "attempt", "depth/parts/views/attempt/map.npz")
    for key in (of_part, of_step):
        await store.put(key, b"depths")
    await repository.cancel_job(TENANT, job_id)
    await relay.run_once()
    assert await store.exists(of_part)
    assert [row.kind for row in await outbox_of(database, job_id)] == ["tidy"]
    clock.pass_by(hours=2)
    await relay.run_once()
    assert not await store.exists(of_part) and await store.exists(of_step)
    assert await outbox_of(database, job_id) == []


async def test_a_cancelled_job_that_waited_is_never_published(
    database: Database, repository: JobRepository, relay: Relay, broker: MemoryBroker
) -> None:
    """Its unsent message goes with its ending."""
    job_id = await insert(database)
    await repository.cancel_job(TENANT, job_id)
    await relay.run_once()
    assert published(broker) == []


async def test_a_row_that_is_added_while_another_is_removed_is_not_taken_for_it(database: Database, repository: JobRepository) -> None:
    """The first message is under way when its job is cancelled: what is marked as sent then is not the row that stops the job."""
    job_id = await insert(database)
    async with database.write() as rows:
        await admit(rows, in_flight=1, limit=1)
        claims = await outbox.claim(rows, "relay", ("publish",), 1, timedelta(minutes=1))
    await repository.cancel_job(TENANT, job_id)
    async with database.write() as rows:
        await outbox.mark_sent(rows, claims)
    assert {row.kind for row in await outbox_of(database, job_id)} == {"stop", "webhook", "tidy"}


async def test_a_row_that_fails_by_itself_holds_up_nobody(database: Database, relay: Relay, broker: MemoryBroker) -> None:
    """It is tried again later; the others go on."""
    job_id = await insert(database, new_job(tenant="broken"))
    async with database.write() as rows:
        rows.to_outbox("broken", "no such kind", {})
        rows.to_outbox("broken-too", "publish", {"position": 99})
    await insert(database)
    await relay.run_once()
    assert len(published(broker)) == 2 and job_id


async def test_admission_is_fair(
    database: Database, broker: MemoryBroker, store: DirectoryStore, repository: JobRepository, clock: FakeClock
) -> None:
    """High priority first, then round-robin over tenants, at most IN_FLIGHT of each; the queue position is that order."""

    async def next_job(tenant: str, priority: int = 0) -> str:
        clock.pass_by(seconds=1)
        return await insert(database, new_job(tenant, priority=priority))

    many = [await next_job("many") for _ in range(4)]
    one, urgent = await next_job("one"), await next_job("many", priority=1)
    order = [urgent, one, *many]
    assert [await repository.queue_position(job_id) for job_id in order] == [1, 2, 3, 4, 5, 6]
    relay = Relay(database, broker, store, relay_settings(in_flight=2))
    await relay.run_once()
    assert {StageMessage.model_validate_json(p.body).job_id for p in published(broker)} == set(order[:3])
    assert [await repository.queue_position(job_id) for job_id in order] == [1, 2, 3, 4, 5, 6]
    await repository.cancel_job("many", urgent)
    await relay.run_once()
    assert StageMessage.model_validate_json(published(broker)[-1].body).job_id == many[1]


async def test_a_step_can_be_published_again(database: Database, relay: Relay, broker: MemoryBroker) -> None:
    """A row's payload names position and counters; they are the message's."""
    job_id = await insert(database)
    await relay.run_once()
    async with database.write() as rows:
        rows.to_outbox(job_id, "publish", {"position": 1, "attempt": 2, "resumed": 1})
    await relay.run_once()
    message = StageMessage.model_validate_json(published(broker, "stage.sfm")[0].body)
    assert (message.position, message.attempt, message.resumed) == (1, 2, 1)


async def test_messages_are_claim_checks(database: Database, relay: Relay, broker: MemoryBroker) -> None:
    """A thousand photos and large metadata stay in the row and in the store."""
    await insert(database, new_job(metadata={"blob": "x" * 60_000}))
    await relay.run_once()
    assert len(published(broker)[0].body) < 16 << 10
    assert json.loads(published(broker)[0].body)["slip"]["steps"]


def test_a_lease_outlives_what_is_done_under_it() -> None:
    """A publish may take 30 s, and the store is written before it."""
    assert relay_settings().lease >= timedelta(seconds=60)


async def test_a_relay_that_is_stopped_gives_its_rows_back(database: Database, store: DirectoryStore, broker: MemoryBroker) -> None:
    """Another one works them at once, without waiting for leases to end."""
    stuck = StuckBroker()
    stopping = Relay(database, stuck, store, relay_settings())
    await stopping.start()
    await insert(database)
    await eventually(lambda: stuck.reached)
    await stopping.stop()
    assert await Relay(database, broker, store, relay_settings()).run_once() == 1


class StuckBroker(MemoryBroker):
    """Never confirms."""

    reached = False

    async def publish(self, publication: Publication) -> None:
        self.reached = True
        await asyncio.Event().wait()
