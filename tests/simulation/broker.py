"""A process's connection to the broker in memory, across the network."""

import asyncio
import contextvars
from collections.abc import Callable
from typing import cast

from shared.broker.memory import MemoryBroker, MemoryConsumer, MemoryDelivery
from shared.broker.memory_server import MemoryQueue, MemoryServer, Message
from shared.contracts.routing import DEAD_EXCHANGE, HEADER_CODE
from shared.errors import DependencyUnavailable, LeaseLost, Unroutable
from shared.ports import Handler, Publication
from tests.simulation.loop import SimulationLoop
from tests.simulation.network import Network
from tests.simulation.plan import LATE, TWICE
from tests.simulation.store import STORE
from tests.simulation.watching import Watcher

BROKER = "broker"
_ACK = "ack"  # a broker that is away refuses publications; its connections live on


class SimulatedBroker(MemoryBroker):
    """Publishing may fail before or after the broker has the message; what was routed may be routed twice. The watcher looks on.

    `computations`: how many its process has begun.
    """

    def __init__(self, process: str, server: MemoryServer, network: Network, own_time: contextvars.Context, watcher: Watcher) -> None:
        super().__init__(server)
        self.process = process
        self.network = network
        self.watcher = watcher
        self.computations: Callable[[], int] = lambda: 0
        self._own_time = own_time  # the broker's timers outlive whoever published

    async def publish(self, publication: Publication) -> None:
        """As the port says."""

        if publication.exchange == DEAD_EXCHANGE and publication.headers.get(HEADER_CODE) == "WORKER_LOST":
            self.watcher.given_up(message for message in self.held() if message.publication.message_id == publication.message_id)

        def route() -> bool:
            return bool(self._own_time.copy().run(self.server.route, publication))

        if publication.transient:
            if BROKER not in self.network.away:
                route()
        elif not await self.network.call(BROKER, f"publish {publication.routing_key}", route, {TWICE: route, LATE: route}):
            raise Unroutable(f"no queue is bound for {publication.routing_key} on {publication.exchange}")

    async def subscribe(self, queue: str, handler: Handler, prefetch: int) -> MemoryConsumer:
        """As the port says."""
        await self.network.pass_by()
        consumer = SimulatedConsumer(self, self.server.queues[queue], handler, prefetch)
        self._consumers.append(consumer)
        consumer.attach()
        return consumer

    async def ping(self) -> None:
        """As the port says."""
        if BROKER in self.network.away:
            raise DependencyUnavailable("broker is away")

    def held(self) -> list[Message]:
        """What was delivered over this connection and not settled yet."""
        return [delivery.message for consumer in self._consumers for delivery in consumer.held]

    def cut(self) -> None:
        """The process is gone: the broker takes back what it held and counts it."""
        for consumer in self._consumers:
            consumer.detach()
        for consumer in self._consumers:
            consumer.lose(counted=True)
        self._consumers.clear()


class SimulatedConsumer(MemoryConsumer):
    """Its deliveries are acked across the network."""

    def __init__(self, broker: SimulatedBroker, queue: MemoryQueue, handler: Handler, prefetch: int) -> None:
        super().__init__(queue, handler, prefetch)
        self.broker = broker

    def deliver(self, message: Message) -> None:
        """One message from the queue."""
        self.broker.network.delivered[self.queue.spec.name] += 1
        self.hold(SimulatedDelivery(message, self))

    def lose(self, counted: bool = True) -> None:
        """As the broker in memory does."""
        for delivery in self._held if counted else ():
            self.broker.watcher.lost(delivery.message, cast(SimulatedDelivery, delivery).waited_s())
        super().lose(counted)


class SimulatedDelivery(MemoryDelivery):
    """An ack may be lost with its connection: then the broker delivers again what was done."""

    def __init__(self, message: Message, consumer: SimulatedConsumer) -> None:
        super().__init__(message, consumer)
        self._broker = consumer.broker
        self._received_at = asyncio.get_running_loop().time()
        self._computations = self._broker.computations()

    async def ack(self) -> None:
        """As the port says."""
        if self.settled:
            return
        try:
            await self._broker.network.call(_ACK, self.queue, self.settle)
        except DependencyUnavailable:
            self._broker.drop_connection()
            if not self.settled:
                raise LeaseLost from None

    def settle(self) -> None:
        """As the broker in memory does."""
        super().settle()
        self._broker.watcher.look()

    def waited_s(self) -> float:
        """For how long its worker has been able to do nothing but wait for the store, and could have put it aside."""
        broker, loop = self._broker, cast(SimulationLoop, asyncio.get_running_loop())
        away = broker.network.away
        hindered = BROKER in away or any(ended > self._received_at for _, ended in loop.stalls(broker.process))
        if STORE not in away or hindered or broker.computations() > self._computations:
            return 0.0
        return loop.time() - max(self._received_at, away[STORE])
