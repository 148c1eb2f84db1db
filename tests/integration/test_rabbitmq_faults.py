"""What only a real broker and a real network can do to us."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from loguru import logger

from shared.broker import publishing, settlement, subscription
from shared.errors import DependencyUnavailable
from shared.ports import Publication
from tests.support.brokers import Inbox, RabbitWorld, rabbit_world, work
from tests.support.eventually import eventually
from tests.support.servers import BrokerServer

WORK_QUEUE = "stage.sfm"


@pytest.fixture
async def world(rabbitmq_server: BrokerServer) -> AsyncIterator[RabbitWorld]:
    """A fresh virtual host behind proxies."""
    async with rabbit_world(rabbitmq_server) as rabbit:
        yield rabbit


async def manage(server: BrokerServer, method: str, path: str) -> Any:
    return await asyncio.to_thread(server.management.call, method, path)


async def test_a_late_broker_is_waited_for(world: RabbitWorld) -> None:
    """A process that starts before its broker does not exit; it says where it waits, without the password."""
    broker = await world.late_broker()
    world.proxy(broker).refuse()
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message} {extra}", level="DEBUG")
    connecting = asyncio.create_task(broker.connect())
    await eventually(lambda: sum("waiting for the broker" in line for line in lines) >= 2)
    with pytest.raises(DependencyUnavailable):
        await broker.ping()

    world.proxy(broker).accept()
    await asyncio.wait_for(connecting, 15)
    logger.remove(sink)

    await broker.ping()
    assert "tests-only" not in "".join(lines)


async def test_publishing_outlasts_a_broker_that_is_away(world: RabbitWorld) -> None:
    """The message is sent when the connection is back, within the deadline."""
    broker = await world.connect()
    world.proxy(broker).refuse()
    publishing_now = asyncio.create_task(broker.publish(work()))
    await eventually(lambda: world.proxy(broker).connections > 4)

    world.proxy(broker).accept()
    await asyncio.wait_for(publishing_now, 15)

    assert await eventually(lambda: broker.depth(WORK_QUEUE)) == 1


@pytest.mark.parametrize("harm", ["refuse", "stall"])
async def test_publishing_gives_up_after_its_deadline(world: RabbitWorld, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    """Refused or unanswered: the caller is told, keeps its message, and may try again."""
    monkeypatch.setattr(publishing, "PUBLISH_DEADLINE_S", 1.0)
    broker = await world.connect()
    getattr(world.proxy(broker), harm)()

    with pytest.raises(DependencyUnavailable):
        await broker.publish(work())

    monkeypatch.setattr(publishing, "PUBLISH_DEADLINE_S", 20.0)
    world.proxy(broker).accept()
    world.proxy(broker).resume()
    await broker.publish(work())


async def test_progress_is_dropped_while_the_broker_is_away(world: RabbitWorld) -> None:
    """At once, without an error, and not sent later."""
    broker = await world.connect()
    world.proxy(broker).refuse()
    await eventually(lambda: not broker._publish_link.up)
    started = asyncio.get_running_loop().time()

    await broker.publish(Publication("events", "stage.sfm.progress", b"{}", "p1", transient=True))

    assert asyncio.get_running_loop().time() - started < 0.5
    world.proxy(broker).accept()
    await broker.publish(Publication("events", "stage.sfm.completed", b"{}", "e1"))
    assert await eventually(lambda: broker.depth("gateway.tracker")) == 1


async def test_a_consumer_that_the_broker_cancels_resumes(world: RabbitWorld, rabbitmq_server: BrokerServer) -> None:
    """A queue that somebody deleted is declared again and consumed again; deliveries of the old consumer are lost leases."""
    broker = await world.connect()
    inbox = Inbox()
    consuming = await broker.subscribe(WORK_QUEUE, inbox, 1)
    await broker.publish(work(b"1"))
    await eventually(lambda: len(inbox) == 1)

    await manage(rabbitmq_server, "DELETE", f"queues/{quote(world.vhost)}/{WORK_QUEUE}")
    await asyncio.wait_for(inbox.deliveries[0].wait_lease_lost(), 5)
    await broker.publish(work(b"2"))

    await eventually(lambda: len(inbox) == 2)
    await settlement.done(inbox.deliveries[1])
    assert (inbox.bodies, consuming.active) == ([b"1", b"2"], True)


async def receive_after_deletions(world: RabbitWorld, server: BrokerServer) -> None:
    """An idle consumer gets what is published to its queue at the very moment at which somebody deleted it, each time."""
    broker, publisher = await world.connect(), await world.connect("publisher")
    inbox = Inbox()
    await broker.subscribe(WORK_QUEUE, inbox, 1)
    for number in range(4):
        await manage(server, "DELETE", f"queues/{quote(world.vhost)}/{WORK_QUEUE}")
        await publisher.publish(work(b"%d" % number, message_id=str(number)))
        await eventually(lambda number=number: len(inbox) == number + 1, 20)
        await settlement.done(inbox.deliveries[number])


async def test_an_idle_consumer_resumes_however_soon_its_queue_is_published_to(world: RabbitWorld, rabbitmq_server: BrokerServer) -> None:
    """Publishing makes the queue again only after the broker has told its consumers; on 3.x it would forget one that hears it later."""
    await receive_after_deletions(world, rabbitmq_server)


async def test_an_idle_consumer_that_is_forgotten_is_made_anew(
    world: RabbitWorld, rabbitmq_server: BrokerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where somebody else makes a deleted queue again at once, 3.x says nothing and delivers nothing."""
    monkeypatch.setattr(publishing, "REDECLARE_PAUSE_S", 0.0)
    monkeypatch.setattr(subscription, "RENEW_S", 2.0)
    await receive_after_deletions(world, rabbitmq_server)


async def test_a_consumer_that_is_made_anew_is_never_away(world: RabbitWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds it keeps, and what comes meanwhile comes once."""
    monkeypatch.setattr(subscription, "RENEW_S", 0.2)
    broker = await world.connect()
    inbox = Inbox()
    consuming = await broker.subscribe(WORK_QUEUE, inbox, 1)
    active = []
    for number in range(10):
        for _ in range(20):
            active.append(consuming.active)
            await asyncio.sleep(0.02)
        await broker.publish(work(b"%d" % number, message_id=str(number)))
        await eventually(lambda number=number: len(inbox) > number)
        await asyncio.sleep(0.5)
        assert not inbox.deliveries[number].lease_lost
        await settlement.done(inbox.deliveries[number])
    assert all(active) and inbox.bodies == [b"%d" % number for number in range(10)]


@pytest.mark.parametrize("path", ["queues/{vhost}/stage.sfm", "exchanges/{vhost}/work"])
async def test_a_part_of_the_topology_that_is_removed_is_made_again(world: RabbitWorld, rabbitmq_server: BrokerServer, path: str) -> None:
    """Publishing heals what an operator removed by accident, instead of failing jobs."""
    broker = await world.connect()
    await manage(rabbitmq_server, "DELETE", path.format(vhost=quote(world.vhost)))

    await broker.publish(work())

    assert await eventually(lambda: broker.depth(WORK_QUEUE)) == 1


async def test_a_stalled_peer_loses_the_lease(world: RabbitWorld) -> None:
    """A network that swallows everything is noticed by heartbeats on both sides; the work goes to somebody else, its first holder knows."""
    stalled = await world.connect("stalled", heartbeat_s=1)
    healthy = await world.connect("healthy")
    first, second = Inbox(), Inbox()
    await stalled.subscribe(WORK_QUEUE, first, 1)
    await healthy.publish(work(b"1"))
    await eventually(lambda: len(first) == 1)

    await healthy.subscribe(WORK_QUEUE, second, 1)
    world.proxy(stalled).stall()

    await eventually(lambda: len(second) == 1, 15)
    await asyncio.wait_for(first.deliveries[0].wait_lease_lost(), 15)
    assert second.deliveries[0].delivery_count == 1


async def test_connections_have_names_for_the_operator(world: RabbitWorld, rabbitmq_server: BrokerServer) -> None:
    """The management UI tells who is who, and what for."""
    await world.connect("sfm@host-1")

    async def both_are_listed() -> bool:
        connections = await manage(rabbitmq_server, "GET", f"vhosts/{quote(world.vhost)}/connections")
        names = {connection.get("client_properties", {}).get("connection_name") for connection in connections}
        return names == {"sfm@host-1#publish", "sfm@host-1#consume"}

    assert await eventually(both_are_listed, 15)


async def test_a_topology_that_disagrees_is_reported(world: RabbitWorld, rabbitmq_server: BrokerServer) -> None:
    """A classic queue of the same name keeps the process waiting, with the reason in the log, instead of half working."""
    await manage(rabbitmq_server, "DELETE", f"queues/{quote(world.vhost)}/{WORK_QUEUE}")
    body = {"durable": True, "arguments": {"x-queue-type": "classic"}}
    await asyncio.to_thread(rabbitmq_server.management.call, "PUT", f"queues/{quote(world.vhost)}/{WORK_QUEUE}", body)
    broker = await world.late_broker()
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")

    connecting = asyncio.create_task(broker.connect())
    await eventually(lambda: any("x-queue-type" in line for line in lines))
    await manage(rabbitmq_server, "DELETE", f"queues/{quote(world.vhost)}/{WORK_QUEUE}")
    await asyncio.wait_for(connecting, 15)
    logger.remove(sink)

    await broker.publish(work())
