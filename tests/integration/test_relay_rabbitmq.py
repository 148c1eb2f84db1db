"""Two gateways' relays and trackers on real PostgreSQL and RabbitMQ, with workers that only tell that they are done."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from gateway.database import admission, jobs
from gateway.database.engine import Database, create_engine
from gateway.database.repositories import JobRepository
from gateway.database.upgrade import upgrade
from gateway.relay import Relay
from gateway.tracker import Tracker
from shared.contracts.messages import StageMessage, WebhookMessage
from shared.contracts.routing import WEBHOOKS_QUEUE, stage_queue
from shared.errors import DependencyUnavailable
from shared.ports import Broker, Delivery
from shared.storage.directory import DirectoryStore
from tests.support.brokers import RabbitWorld, rabbit_world
from tests.support.builders import a_publication
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
    relay_settings,
    started,
    store_manifest,
    told,
)
from tests.support.proxy import TcpProxy
from tests.support.servers import BrokerServer


class DoneAtOnce:
    """Workers of every stage: commit, publish next, tell, ack. Keeps the webhooks that were to be delivered."""

    def __init__(self, broker: Broker, store: DirectoryStore) -> None:
        self._broker = broker
        self._store = store
        self.webhooks: Counter[str] = Counter()

    async def start(self) -> None:
        for stage in STEPS:
            await self._broker.subscribe(stage_queue(stage), self.work, 20)
        await self._broker.subscribe(WEBHOOKS_QUEUE, self.deliver, 20)

    async def work(self, delivery: Delivery) -> None:
        message = StageMessage.model_validate_json(delivery.body)
        manifest = await store_manifest(self._store, manifest_of(message.job_id, message.position))
        await self._broker.publish(told(started(message.job_id, message.position)))
        if not message.slip.is_last(message.position):
            await self._broker.publish(a_publication(message.at(message.position + 1)))
        await self._broker.publish(told(completed(manifest)))
        await delivery.ack()

    async def deliver(self, delivery: Delivery) -> None:
        self.webhooks[WebhookMessage.model_validate_json(delivery.body).delivery_id] += 1
        await delivery.ack()


@pytest.fixture
async def world(rabbitmq_server: BrokerServer) -> AsyncIterator[RabbitWorld]:
    async with rabbit_world(rabbitmq_server) as world:
        yield world


@pytest.fixture
async def store(tmp_path: Path) -> DirectoryStore:
    store = DirectoryStore(tmp_path)
    await store.prepare()
    return store


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def a_gateway(stack: AsyncExitStack, url: str, broker: Broker, store: DirectoryStore, name: str) -> Database:
    """Relay and tracker of one replica, with its own connections."""
    database = create_engine(url)
    stack.push_async_callback(database.close)
    for part in (Relay(database, broker, store, relay_settings(), owner=name), Tracker(database, broker, store, LINKS)):
        stack.push_async_callback(part.stop)
        await part.start()
    return database


async def statuses(database: Database, job_ids: list[str]) -> set[str]:
    return {(await job_of(database, job_id)).status for job_id in job_ids}


async def test_two_replicas_bring_every_job_to_its_end(
    postgres_url: str, world: RabbitWorld, store: DirectoryStore, stack: AsyncExitStack
) -> None:
    """Jobs complete or are cancelled, each told once, whichever replica took their rows and events."""
    await upgrade(postgres_url)
    first, second = [await a_gateway(stack, postgres_url, await world.connect(name), store, name) for name in ("one", "two")]
    workers = DoneAtOnce(await world.connect("workers"), store)
    await workers.start()
    job_ids = [await insert(database) for database in (first, second) for _ in range(15)]
    await asyncio.gather(*(JobRepository(second, LINKS).cancel_job(TENANT, job_id) for job_id in job_ids[-5:]), return_exceptions=True)

    async def all_ended() -> bool:
        return await statuses(first, job_ids) <= {"completed", "cancelled"}

    await eventually(all_ended, 60)
    deliveries = [(await deliveries_of(first, job_id)) for job_id in job_ids]
    assert [len(rows) for rows in deliveries] == [1] * len(job_ids)
    await eventually(lambda: workers.webhooks.keys() == {rows[0].id for rows in deliveries}, 20)
    assert (await statuses(first, job_ids[:-5])) == {"completed"}


async def test_jobs_accepted_while_the_broker_is_away_go_out_when_it_is_back(
    postgres_url: str, world: RabbitWorld, store: DirectoryStore, stack: AsyncExitStack
) -> None:
    """The row waits in the outbox; events in flight are told again."""
    await upgrade(postgres_url)
    broker = await world.connect("gateway")
    database = await a_gateway(stack, postgres_url, broker, store, "one")
    workers = DoneAtOnce(await world.connect("workers"), store)
    await workers.start()
    world.proxy(broker).refuse()
    world.lose_connection(broker)
    job_ids = [await insert(database) for _ in range(5)]
    await asyncio.sleep(1)  # that nothing goes out can only be seen by waiting
    assert await statuses(database, job_ids) == {"queued"}
    world.proxy(broker).accept()

    async def all_completed() -> bool:
        return await statuses(database, job_ids) == {"completed"}

    await eventually(all_completed, 60)


async def hold(database: Database, job_ids: list[str], held: asyncio.Event, released: asyncio.Event) -> None:
    """What a relay that lets jobs in and a tracker that folds their events lock, for as long as `released` is not set."""
    async with database.write() as rows:
        assert await admission._take_the_door(rows)
        assert len(await jobs.lock_jobs(rows, job_ids)) == len(job_ids)
        held.set()
        await released.wait()


async def test_a_replica_that_is_cut_off_in_a_transaction_holds_up_nobody(
    postgres_url: str, world: RabbitWorld, store: DirectoryStore, stack: AsyncExitStack
) -> None:
    """PostgreSQL takes back the door and the jobs that it held; once it is heard again, it knows that all is undone."""
    await upgrade(postgres_url)
    database = await a_gateway(stack, postgres_url, await world.connect("one"), store, "one")
    begun = [await insert(database) for _ in range(3)]

    async def all_admitted() -> bool:
        return all([(await job_of(database, job_id)).admitted_at is not None for job_id in begun])

    await eventually(all_admitted, 20)
    server = make_url(postgres_url)
    proxy = await stack.enter_async_context(TcpProxy(str(server.host), int(server.port or 5432)))
    through_proxy = server.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    other = create_engine(through_proxy, silence=timedelta(seconds=3))
    stack.push_async_callback(other.close)
    held, released = asyncio.Event(), asyncio.Event()
    holding = asyncio.create_task(hold(other, begun, held, released))
    await asyncio.wait_for(held.wait(), 20)
    proxy.stall()

    workers = DoneAtOnce(await world.connect("workers"), store)
    await workers.start()
    job_ids = [*begun, await insert(database)]

    async def all_completed() -> bool:
        return await statuses(database, job_ids) == {"completed"}

    await eventually(all_completed, 60)
    proxy.resume()
    released.set()
    with pytest.raises(DependencyUnavailable):
        await holding
    assert await statuses(other, job_ids) == {"completed"}
