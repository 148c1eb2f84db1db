"""A node of its own, killed and started again."""

import asyncio
from collections.abc import Iterator
from urllib.error import HTTPError

import pytest

from deploy.native.management import Management
from shared.broker import settlement
from shared.broker.rabbitmq import RabbitBroker
from shared.broker.topology import TOPOLOGY
from tests.integration.rabbitmq_node import Node, running_node
from tests.support.brokers import Inbox, work
from tests.support.eventually import eventually


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running_node() as started:
        yield started


def test_the_node_knows_policies_and_one_user(node: Node) -> None:
    """The user comes from the environment with whatever password; guest does not exist; every policy is in force."""
    management = node.management

    assert [user["name"] for user in management.call("GET", "users")] == ["meshwork"]
    assert {policy["name"] for policy in management.call("GET", "policies/meshwork")} == {policy.name for policy in TOPOLOGY.policies}
    with pytest.raises(HTTPError):
        Management(f"http://127.0.0.1:{node.management_port}", "meshwork", "wrong").call("GET", "overview")


@pytest.mark.parametrize("steps", range(12))
async def test_who_stops_leaves_no_error_in_the_broker_s_log(node: Node, steps: int) -> None:
    """As a worker does: its consumer is stopped, and a few steps of the event loop later its connections are closed."""
    broker = RabbitBroker(node.url, f"leaves-{steps}")
    await broker.connect()
    subscription = await broker.subscribe("stage.mvs", Inbox(), 1)
    await subscription.cancel()
    for _ in range(steps):
        await asyncio.sleep(0)
    await asyncio.wait_for(broker.close(), 2)
    await eventually(lambda: any("closing AMQP" in line and f"leaves-{steps}#consume" in line for line in node.log.splitlines()))
    assert "[error]" not in node.log and "CHANNEL_ERROR" not in node.log


async def test_a_killed_broker_loses_nothing(node: Node) -> None:
    """What was confirmed is there after the restart; consumers resume; what was in hand is a lost lease and comes again."""
    broker = RabbitBroker(node.url, "restart")
    await broker.connect()
    inbox = Inbox()
    subscription = await broker.subscribe("stage.sfm", inbox, 1)
    for body in (b"1", b"2"):
        await broker.publish(work(body, message_id=body.decode()))
    await eventually(lambda: len(inbox) == 1)

    await asyncio.to_thread(node.process.kill)
    await eventually(lambda: inbox.deliveries[0].lease_lost)
    assert not subscription.active
    publishing = asyncio.create_task(broker.publish(work(b"3", message_id="3")))
    await asyncio.to_thread(node.start)

    await publishing
    await eventually(lambda: len(inbox) == 2, 30)
    for number in range(1, 4):
        await settlement.done(inbox.deliveries[number])
        await eventually(lambda number=number: len(inbox) == min(number + 2, 4))
    assert sorted(inbox.bodies) == [b"1", b"1", b"2", b"3"]
    await broker.close()
