"""A node of its own, started by deploy/rabbitmq/start.sh as the containers do, killed and started again."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote

import pytest

from deploy.native.management import Management
from deploy.native.process import Process, answers, free_port
from deploy.native.servers import RABBITMQ_PROGRAM
from shared.broker import settlement
from shared.broker.generate import FOLDER, LOADED_FROM
from shared.broker.rabbitmq import RabbitBroker
from shared.broker.topology import TOPOLOGY
from tests.support.brokers import Inbox, work
from tests.support.eventually import eventually

PASSWORD = 'it\'s "quoted" & $more/é'


class Node:
    """A RabbitMQ node in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.port, self.management_port = free_port(), free_port()
        configuration = (FOLDER / "rabbitmq.conf").read_text().replace(LOADED_FROM, str(folder / "definitions.json"))
        ports = (
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nmanagement.tcp.port = {self.management_port}\nprometheus.tcp.port = {free_port()}\n"
        )
        (folder / "rabbitmq.conf").write_text(configuration + ports)
        environment = {
            "HOME": str(folder),
            "PATH": f"{RABBITMQ_PROGRAM.parent}:{os.environ['PATH']}",
            "MESHWORK_RABBITMQ_FOLDER": str(folder),
            "MESHWORK_AMQP_USER": "meshwork",
            "MESHWORK_AMQP_PASSWORD": PASSWORD,
            "RABBITMQ_NODENAME": f"restart_{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        self.process = Process([str(FOLDER / "start.sh")], folder / "node.log", environment)

    def start(self) -> None:
        """Returns when it takes connections."""
        self.process.start()
        self.process.wait_ready(lambda: answers(self.port) and answers(self.management_port))

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"amqp://meshwork:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/meshwork"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Started as the containers do."""
    folder = Path(tempfile.mkdtemp(prefix="meshwork-test-"))
    folder.chmod(0o755)
    started = Node(folder)
    started.start()
    try:
        yield started
    finally:
        started.process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_node_knows_policies_and_one_user(node: Node) -> None:
    """The user comes from the environment with whatever password; guest does not exist; every policy is in force."""
    management = Management(f"http://127.0.0.1:{node.management_port}", "meshwork", PASSWORD)

    assert [user["name"] for user in management.call("GET", "users")] == ["meshwork"]
    assert {policy["name"] for policy in management.call("GET", "policies/meshwork")} == {policy.name for policy in TOPOLOGY.policies}
    with pytest.raises(HTTPError):
        Management(f"http://127.0.0.1:{node.management_port}", "meshwork", "wrong").call("GET", "overview")


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
