"""What every part may rely on, whichever broker it talks to: the same tests over memory and RabbitMQ."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.broker import settlement
from shared.errors import LeaseLost, Unroutable
from shared.ports import Broker, Delivery, Publication
from tests.support.brokers import BrokerWorld, Inbox, MemoryWorld, rabbit_world, work
from tests.support.eventually import eventually

WORK_QUEUE = "stage.sfm"
TRACKER = "gateway.tracker"


@pytest.fixture(params=["memory", "rabbitmq"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[BrokerWorld]:
    """A fresh broker server."""
    if request.param == "memory":
        yield MemoryWorld()
        return
    async with rabbit_world(request.getfixturevalue("rabbitmq_server")) as rabbit:
        yield rabbit


async def received(broker: Broker, queue: str, number: int = 1, prefetch: int = 10) -> Inbox:
    """An inbox once it has this many deliveries."""
    inbox = Inbox()
    await broker.subscribe(queue, inbox, prefetch)
    await eventually(lambda: len(inbox) >= number)
    return inbox


def broker_headers(delivery: Delivery) -> list[str]:
    return [name for name in delivery.headers if name.startswith("x-")]


async def test_a_published_message_arrives_as_it_was_sent(world: BrokerWorld) -> None:
    """Body, headers, id and address survive; nothing counts as a redelivery."""
    broker = await world.connect()
    await broker.publish(work(b'{"n": 1}', message_id="id-1", job="j1", step="sfm", newer=3))

    delivery = (await received(broker, WORK_QUEUE)).deliveries[0]

    assert (delivery.body, delivery.message_id) == (b'{"n": 1}', "id-1")
    assert (delivery.exchange, delivery.routing_key, delivery.queue) == ("work", WORK_QUEUE, WORK_QUEUE)
    assert dict(delivery.headers) == {"job": "j1", "step": "sfm", "newer": 3}
    assert (delivery.delivery_count, delivery.lease_lost) == (0, False)


async def test_messages_come_in_order(world: BrokerWorld) -> None:
    """First published, first delivered."""
    broker = await world.connect()
    bodies = [str(number).encode() for number in range(20)]
    for body in bodies:
        await broker.publish(work(body))

    assert bodies == (await received(broker, WORK_QUEUE, 20, prefetch=100)).bodies


async def test_a_message_that_no_queue_takes_is_refused(world: BrokerWorld) -> None:
    """Nothing disappears silently: neither an unbound key nor an unknown exchange."""
    broker = await world.connect()

    with pytest.raises(Unroutable):
        await broker.publish(work(queue="stage.unheard-of"))
    await broker.publish(work())  # the broker is as good as before

    assert await eventually(lambda: broker.depth(WORK_QUEUE)) == 1


async def test_publishing_the_same_id_at_once_confirms_both(world: BrokerWorld) -> None:
    """Ids are deterministic, so two publishes of one message may be under way together."""
    broker = await world.connect()

    results = await asyncio.gather(
        broker.publish(work()), broker.publish(work(queue="stage.unheard-of")), broker.publish(work()), return_exceptions=True
    )

    assert [type(None), Unroutable, type(None)] == [type(result) for result in results]


async def test_a_transient_message_never_raises(world: BrokerWorld) -> None:
    """Progress is fire and forget; while all is well it arrives."""
    broker = await world.connect()
    await broker.publish(Publication("work", "nobody.listens", b"{}", "p0", transient=True))
    await broker.publish(Publication("events", "stage.sfm.progress", b"{}", "p1", transient=True))

    delivery = (await received(broker, TRACKER)).deliveries[0]

    assert (delivery.message_id, delivery.exchange) == ("p1", "events")


async def test_an_acked_message_is_gone(world: BrokerWorld) -> None:
    """Settled is settled, also when the connection is lost afterwards; a second ack changes nothing."""
    broker = await world.connect()
    for body in (b"1", b"2"):
        await broker.publish(work(body, message_id=body.decode()))
    inbox = await received(broker, WORK_QUEUE, prefetch=1)
    await settlement.done(inbox.deliveries[0])
    await inbox.deliveries[0].ack()
    await eventually(lambda: len(inbox) == 2)  # the broker knows of the ack: it sent the next

    world.lose_connection(broker)
    await eventually(lambda: len(inbox) == 3)

    assert inbox.bodies == [b"1", b"2", b"2"]


async def test_no_more_than_prefetch_are_in_hand(world: BrokerWorld) -> None:
    """The next delivery comes when one is settled."""
    broker = await world.connect()
    for number in range(4):
        await broker.publish(work(str(number).encode(), message_id=f"m{number}"))
    inbox = await received(broker, WORK_QUEUE, 2, prefetch=2)

    assert await eventually(lambda: broker.depth(WORK_QUEUE)) == 2
    assert len(inbox) == 2
    await inbox.deliveries[0].ack()

    assert await eventually(lambda: len(inbox) == 3)


async def test_a_lost_worker_is_counted_by_the_broker(world: BrokerWorld) -> None:
    """Each loss of an unsettled delivery adds one to its count; the message is the same."""
    broker = await world.connect()
    await broker.publish(work(b"1"))
    inbox = await received(broker, WORK_QUEUE)

    for losses in (1, 2):
        world.lose_connection(broker)
        await eventually(lambda losses=losses: len(inbox) == losses + 1)

    assert [delivery.delivery_count for delivery in inbox.deliveries] == [0, 1, 2]
    assert inbox.bodies == [b"1"] * 3


async def test_a_lost_lease_stays_lost(world: BrokerWorld) -> None:
    """The old delivery knows, wakes who waits for it, cannot be settled, and publishes nothing, though the connection is back."""
    broker = await world.connect()
    await broker.publish(work(b"1"))
    inbox = await received(broker, WORK_QUEUE)
    old = inbox.deliveries[0]
    waiting = asyncio.create_task(old.wait_lease_lost())

    world.lose_connection(broker)
    await asyncio.wait_for(waiting, 5)
    await eventually(lambda: len(inbox) == 2)

    assert old.lease_lost and not inbox.deliveries[1].lease_lost
    for settle in (
        settlement.done(old),
        settlement.retry(broker, old, 10, b"", "r1"),
        settlement.give_up(broker, old, "INTERNAL", "no", "j1", "sfm"),
        settlement.hand_back(broker, old),
    ):
        with pytest.raises(LeaseLost):
            await settle
    await settlement.done(inbox.deliveries[1])
    assert [await broker.depth(queue) for queue in (WORK_QUEUE, "retry.10s", "dead.sfm")] == [0, 0, 0]


async def test_the_next_delivery_waits_for_the_handler_of_the_lost_one(world: BrokerWorld) -> None:
    """A worker with prefetch 1 is never asked to do two things, not even while it ends the child of a lost delivery."""
    broker = await world.connect()
    running: list[Delivery] = []
    ended = asyncio.Event()

    async def handler(delivery: Delivery) -> None:
        running.append(delivery)
        await ended.wait()

    await broker.publish(work(b"1"))
    await broker.subscribe(WORK_QUEUE, handler, 1)
    await eventually(lambda: running)
    world.lose_connection(broker)
    await running[0].wait_lease_lost()
    # It is delivered again: nothing is ready in the queue although nobody settled it.
    await eventually(lambda: is_zero(broker, WORK_QUEUE))

    assert len(running) == 1
    ended.set()
    assert await eventually(lambda: len(running) == 2)


async def is_zero(broker: Broker, queue: str) -> bool:
    return await broker.depth(queue) == 0


async def test_another_worker_takes_over(world: BrokerWorld) -> None:
    """What one connection loses goes to another."""
    first, second = await world.connect("first"), await world.connect("second")
    await first.publish(work(b"1"))
    inbox = await received(first, WORK_QUEUE)
    other = Inbox()
    await second.subscribe(WORK_QUEUE, other, 1)

    await first.close()

    assert await eventually(lambda: len(other) == 1)
    assert (other.deliveries[0].delivery_count, inbox.deliveries[0].lease_lost) == (1, True)


async def test_a_handler_that_fails_leaves_its_message_unsettled(world: BrokerWorld) -> None:
    """An accident in our code loses no message: it comes again when the connection is lost."""
    broker = await world.connect()
    seen: list[bytes] = []

    async def handler(delivery: Delivery) -> None:
        seen.append(delivery.body)
        if len(seen) == 1:
            raise RuntimeError("an accident")
        await delivery.ack()

    await broker.subscribe(WORK_QUEUE, handler, 2)
    await broker.publish(work(b"1"))
    await broker.publish(work(b"2", message_id="m2"))
    await eventually(lambda: len(seen) == 2)
    world.lose_connection(broker)

    assert await eventually(lambda: seen.count(b"1") == 2)


async def test_a_cancelled_consumer_may_settle_what_it_holds(world: BrokerWorld) -> None:
    """Nothing further comes; what is in hand is settled as ever."""
    broker = await world.connect()
    inbox = Inbox()
    subscription = await broker.subscribe(WORK_QUEUE, inbox, 1)
    await broker.publish(work(b"1"))
    await eventually(lambda: len(inbox) == 1)
    assert subscription.active

    await subscription.cancel()
    await broker.publish(work(b"2", message_id="m2"))
    await inbox.deliveries[0].ack()

    assert await eventually(lambda: broker.depth(WORK_QUEUE)) == 1
    assert (len(inbox), subscription.active) == (1, False)


async def test_retry_comes_back_to_its_queue_after_the_delay(world: BrokerWorld) -> None:
    """With the counters that the caller changed, the headers that it had, and those that the caller added."""
    broker = await world.connect()
    await broker.publish(work(b"attempt 1", traceparent="00-1", job="j1"))
    inbox = await received(broker, WORK_QUEUE)

    await settlement.retry(broker, inbox.deliveries[0], 10, b"attempt 2", "m2", {"waited": 1})
    assert await eventually(lambda: broker.depth("retry.10s")) == 1
    await eventually(lambda: len(inbox) == 2)

    again = inbox.deliveries[1]
    assert (
        again.body,
        again.message_id,
        again.queue,
        again.routing_key,
        again.delivery_count,
    ) == (b"attempt 2", "m2", WORK_QUEUE, "10s.stage.sfm", 0)
    assert {k: v for k, v in again.headers.items() if not k.startswith("x-")} == {"traceparent": "00-1", "job": "j1", "waited": 1}


async def test_copies_carry_no_header_of_the_broker(world: BrokerWorld) -> None:
    """A message that was redelivered and retried goes on as if it were new."""
    broker = await world.connect()
    await broker.publish(work(b"1"))
    inbox = await received(broker, WORK_QUEUE)
    await settlement.retry(broker, inbox.deliveries[0], 10, b"2", "m2")
    await eventually(lambda: len(inbox) == 2)
    world.lose_connection(broker)
    await eventually(lambda: len(inbox) == 3)
    assert broker_headers(inbox.deliveries[2])

    await settlement.hand_back(broker, inbox.deliveries[2])
    await eventually(lambda: len(inbox) == 4)

    assert broker_headers(inbox.deliveries[3]) == []
    assert (
        inbox.deliveries[3].body,
        inbox.deliveries[3].message_id,
        inbox.deliveries[3].routing_key,
        inbox.deliveries[3].delivery_count,
    ) == (b"2", "m2", WORK_QUEUE, 0)


async def test_handing_back_changes_nothing_but_the_worker(world: BrokerWorld) -> None:
    """Body, id and headers are the same for whoever takes it next."""
    first, second = await world.connect("first"), await world.connect("second")
    await first.publish(work(b"1", job="j1", step="sfm", newer=2))
    inbox = Inbox()
    subscription = await first.subscribe(WORK_QUEUE, inbox, 1)
    await eventually(lambda: len(inbox) == 1)

    await subscription.cancel()
    await settlement.hand_back(first, inbox.deliveries[0])
    other = await received(second, WORK_QUEUE)

    assert (
        other.deliveries[0].body,
        other.deliveries[0].message_id,
        dict(other.deliveries[0].headers),
    ) == (b"1", "m1", {"job": "j1", "step": "sfm", "newer": 2})


@pytest.mark.parametrize(("queue", "dead"), [("stage.sfm", "dead.sfm"), ("webhooks.deliver", "dead.webhooks")])
async def test_what_is_given_up_reaches_parking_and_tracker(world: BrokerWorld, queue: str, dead: str) -> None:
    """With the reason in its headers and the body as it came; also after a retry, which left its mark on the routing key."""
    broker = await world.connect()
    await broker.publish(Publication("retry", f"10s.{queue}", b"not json", "m1", headers={"job": "j1", "step": "s1"}))
    inbox = await received(broker, queue)

    await settlement.give_up(broker, inbox.deliveries[0], "INTERNAL", "nobody can read it", None, None)
    parked, told = await received(broker, dead), await received(broker, TRACKER)

    for delivery in (parked.deliveries[0], told.deliveries[0]):
        assert (b"not json", "m1", "dead", queue) == (delivery.body, delivery.message_id, delivery.exchange, delivery.routing_key)
        assert dict(delivery.headers) == {"job": "j1", "step": "s1", "code": "INTERNAL", "reason": "nobody can read it"}
    assert await broker.depth(queue) == 0


async def test_what_the_tracker_gives_up_does_not_come_back_to_it(world: BrokerWorld) -> None:
    """It is parked, once."""
    broker = await world.connect()
    await broker.publish(Publication("events", "stage.sfm.completed", b"not json", "e1"))
    inbox = await received(broker, TRACKER)

    await settlement.give_up(broker, inbox.deliveries[0], "INTERNAL", "nobody can read it", None, None)
    await received(broker, "dead.tracker")

    assert (len(inbox), await broker.depth(TRACKER)) == (1, 0)


@pytest.mark.parametrize("exchange_and_key", [("work", "stage.sfm"), ("retry", "10s.stage.sfm")])
async def test_the_brokers_own_dead_letters_end_in_the_same_places(world: BrokerWorld, exchange_and_key: tuple[str, str]) -> None:
    """A message that kills its workers before they can count reaches parking and tracker by the delivery limit, and names its job."""
    broker = await world.connect()
    await broker.publish(Publication(*exchange_and_key, b"poison", "m1", headers={"job": "j1", "step": "sfm"}))
    inbox = await received(broker, WORK_QUEUE)
    for losses in (1, 2):  # the limit of the quick topology
        world.lose_connection(broker)
        await eventually(lambda losses=losses: len(inbox) == losses + 1)
    world.lose_connection(broker)

    parked, told = await received(broker, "dead.sfm"), await received(broker, TRACKER)

    for delivery in (parked.deliveries[0], told.deliveries[0]):
        assert (b"poison", "dead", exchange_and_key[1]) == (delivery.body, delivery.exchange, delivery.routing_key)
        assert (delivery.headers["job"], delivery.headers["step"]) == ("j1", "sfm")
    assert len(inbox) == 3


async def test_the_tracker_never_loses_an_event(world: BrokerWorld) -> None:
    """Its queue has no limit on deliveries: an event waits for a database that is away, however often the gateway restarts."""
    broker = await world.connect()
    await broker.publish(Publication("events", "webhook.attempted", b"{}", "e1"))
    inbox = await received(broker, TRACKER)

    for losses in (1, 2, 3, 4):
        world.lose_connection(broker)
        await eventually(lambda losses=losses: len(inbox) == losses + 1)

    assert inbox.deliveries[-1].delivery_count == 4


async def test_depth_counts_what_waits(world: BrokerWorld) -> None:
    """Not what is in somebody's hand."""
    broker = await world.connect()
    for number in range(3):
        await broker.publish(work(message_id=f"m{number}"))
    assert await eventually(lambda: broker.depth(WORK_QUEUE)) == 3

    await received(broker, WORK_QUEUE, 1, prefetch=1)

    assert await eventually(lambda: depth_is(broker, WORK_QUEUE, 2))
    await broker.ping()


async def depth_is(broker: Broker, queue: str, expected: int) -> bool:
    return await broker.depth(queue) == expected
