"""The two brokers behind one face, so that the same tests run over both."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Protocol
from urllib.parse import urlsplit

from deploy.native.management import Management
from shared.broker.memory import MemoryBroker
from shared.broker.memory_server import MemoryServer
from shared.broker.rabbitmq import RabbitBroker
from shared.broker.topology import Topology, build_topology, definitions, generation
from shared.ports import Broker, Delivery, Publication
from tests.support.proxy import TcpProxy
from tests.support.servers import BrokerServer, unique

# As deployed, but quick: what waits comes back at once, and the limit is near.
QUICK = build_topology({"10s": 0.3, "1m": 0.6, "5m": 0.9, "30m": 60, "2h": 60, "10h": 60}, delivery_limit=2)


@contextmanager
def back_soon(management: Management, vhost: str, delay: str, milliseconds: int) -> Iterator[None]:
    """What waits in this retry queue (`10s`, `1m`) comes back after so long."""
    path = f"policies/{vhost}/retry.{delay}"
    usual = management.call("GET", path)
    management.call("PUT", path, {**usual, "definition": {**usual["definition"], "message-ttl": milliseconds}})
    try:
        yield
    finally:
        management.call("PUT", path, usual)


class BrokerWorld(Protocol):
    """A broker server that tests connect to, and do harm to."""

    async def connect(self, name: str = "test") -> Broker:
        """A connected broker of its own."""

    def lose_connection(self, broker: Broker) -> None:
        """Cuts it off; it comes back by itself."""


class MemoryWorld:
    """A server in memory."""

    def __init__(self) -> None:
        self.server = MemoryServer(QUICK)

    async def connect(self, name: str = "test") -> Broker:
        return MemoryBroker(self.server)

    def lose_connection(self, broker: Broker) -> None:
        assert isinstance(broker, MemoryBroker)
        broker.drop_connection()


class RabbitWorld:
    """A virtual host of a real RabbitMQ; every connection goes through a proxy of its own."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = urlsplit(url)
        self._stack = stack
        self._proxies: dict[int, TcpProxy] = {}

    @property
    def vhost(self) -> str:
        """The virtual host's name."""
        return self._url.path.removeprefix("/")

    async def connect(self, name: str = "test", heartbeat_s: int | None = None) -> RabbitBroker:
        broker = await self.late_broker(name, heartbeat_s)
        await broker.connect()
        return broker

    async def late_broker(self, name: str = "test", heartbeat_s: int | None = None) -> RabbitBroker:
        """A broker that is not connected yet."""
        proxy = await self._stack.enter_async_context(TcpProxy(self._url.hostname or "", self._url.port or 5672))
        account = f"{self._url.username}:{self._url.password}"
        query = f"?heartbeat={heartbeat_s}" if heartbeat_s else ""
        broker = RabbitBroker(f"amqp://{account}@127.0.0.1:{proxy.port}{self._url.path}{query}", name, QUICK)
        self._stack.push_async_callback(broker.close)
        self._proxies[id(broker)] = proxy
        return broker

    def proxy(self, broker: Broker) -> TcpProxy:
        """What stands between this broker and the server."""
        return self._proxies[id(broker)]

    def lose_connection(self, broker: Broker) -> None:
        self.proxy(broker).cut()


@asynccontextmanager
async def rabbit_world(server: BrokerServer, topology: Topology = QUICK) -> AsyncIterator[RabbitWorld]:
    """A virtual host with the quick topology's policies."""
    vhost = unique("contract")
    await asyncio.to_thread(make_vhost, server, vhost, topology)
    async with AsyncExitStack() as stack:
        yield RabbitWorld(server.url(vhost), stack)
    await asyncio.to_thread(server.management.drop_vhost, vhost)


def make_vhost(server: BrokerServer, vhost: str, topology: Topology) -> None:
    """A virtual host with this topology, policies included."""
    version = server.management.call("GET", "overview")["rabbitmq_version"]
    everything = definitions(vhost, generation(version), topology)
    parts = ("policies", "queues", "exchanges", "bindings")
    server.management.make_vhost(
        vhost, {part: [{k: v for k, v in item.items() if k != "vhost"} for item in everything[part]] for part in parts}
    )


class Inbox:
    """A handler that keeps what it gets, unsettled."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    async def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    def __len__(self) -> int:
        return len(self.deliveries)

    @property
    def bodies(self) -> Sequence[bytes]:
        """What came, in order."""
        return [delivery.body for delivery in self.deliveries]


def work(body: bytes = b"{}", queue: str = "stage.sfm", message_id: str = "m1", **headers: str | int) -> Publication:
    """A message for a work queue."""
    return Publication("work", queue, body, message_id, "stage.requested", headers or {"job": "j1", "step": "sfm"})
