"""The hooks of the broker in memory, with which tests do what networks and operators do."""

import asyncio

import pytest

from shared.broker import memory
from shared.broker.memory import MemoryBroker
from shared.errors import DependencyUnavailable
from shared.ports import Publication
from tests.support.brokers import Inbox, work
from tests.support.eventually import eventually

WORK_QUEUE = "stage.sfm"


async def test_refused_publications_wait_and_then_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a memory alarm: the confirmed ones wait up to the deadline, the transient ones are dropped, and ping tells."""
    broker = MemoryBroker()
    broker.server.refuse_publishes()
    waiting = asyncio.create_task(broker.publish(work(b"1")))
    await broker.publish(Publication("events", "stage.sfm.progress", b"{}", "p1", transient=True))
    with pytest.raises(DependencyUnavailable):
        await broker.ping()

    broker.server.accept_publishes()
    await waiting
    broker.server.refuse_publishes()
    monkeypatch.setattr(memory, "PUBLISH_DEADLINE_S", 0.05)
    with pytest.raises(DependencyUnavailable):
        await broker.publish(work(b"2"))

    assert [message.publication.body for message in broker.server.ready(WORK_QUEUE)] == [b"1"]
    assert broker.server.ready("gateway.tracker") == []


async def test_a_consumer_timeout_takes_back_without_counting() -> None:
    """RabbitMQ 4.3 cancels the consumer and counts nothing; the lease is lost all the same."""
    broker = MemoryBroker()
    inbox = Inbox()
    await broker.subscribe(WORK_QUEUE, inbox, 1)
    await broker.publish(work(b"1"))
    await eventually(lambda: len(inbox) == 1)

    broker.drop_connection(counted=False)
    await eventually(lambda: len(inbox) == 2)

    assert (inbox.deliveries[0].lease_lost, inbox.deliveries[1].delivery_count) == (True, 0)


async def test_workers_take_turns() -> None:
    """Two connections to one server share a queue evenly."""
    first = MemoryBroker()
    second = MemoryBroker(first.server)
    left, right = Inbox(), Inbox()
    await first.subscribe(WORK_QUEUE, left, 10)
    await second.subscribe(WORK_QUEUE, right, 10)

    for number in range(6):
        await first.publish(work(str(number).encode(), message_id=f"m{number}"))

    await eventually(lambda: len(left) + len(right) == 6)
    assert (left.bodies, right.bodies) == ([b"0", b"2", b"4"], [b"1", b"3", b"5"])
