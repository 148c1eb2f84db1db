"""The broker in memory: what RabbitMQ does for us, within one process. It passes the same contract tests."""

import asyncio
import contextvars

from shared.broker.consuming import Lease, Turns
from shared.broker.memory_server import MemoryQueue, MemoryServer, Message
from shared.errors import DependencyUnavailable, LeaseLost, Unroutable
from shared.ports import Delivery, Handler, Headers, Publication

PUBLISH_DEADLINE_S = 30.0


class MemoryDelivery:
    """One message in a consumer's hand."""

    def __init__(self, message: Message, consumer: "MemoryConsumer") -> None:
        self.message = message
        self.lease = Lease()
        self._consumer = consumer
        self.settled = False
        self._delivery_count = message.delivery_count

    @property
    def queue(self) -> str:
        """The work queue that it came from."""
        return self._consumer.queue.spec.name

    @property
    def routing_key(self) -> str:
        """As published; a retry or a dead letter keeps it."""
        return self.message.publication.routing_key

    @property
    def exchange(self) -> str:
        """The exchange that routed it here last."""
        return self.message.publication.exchange

    @property
    def body(self) -> bytes:
        """As published."""
        return self.message.publication.body

    @property
    def headers(self) -> Headers:
        """As published, and what the broker adds."""
        added = {"x-delivery-count": self._delivery_count} if self._delivery_count else {}
        return {**self.message.headers, **added}

    @property
    def message_id(self) -> str:
        """As published."""
        return self.message.publication.message_id

    @property
    def delivery_count(self) -> int:
        """How often the broker took it back from a lost worker before."""
        return self._delivery_count

    @property
    def lease_lost(self) -> bool:
        """Whether the broker took it back."""
        return self.lease.lost

    async def wait_lease_lost(self) -> None:
        """Returns when the lease is lost; never otherwise."""
        await self.lease.wait()

    async def ack(self) -> None:
        """Settles it, once; raises LeaseLost when the lease is gone."""
        if self.settled:
            return
        await asyncio.sleep(0)
        self.settle()

    def settle(self) -> None:
        """The broker has the ack. Raises LeaseLost."""
        if self.lease.lost:
            raise LeaseLost
        self.settled = True
        self._consumer.settled(self)


class MemoryConsumer:
    """A subscription: takes deliveries until cancelled, and holds them until they are settled."""

    def __init__(self, queue: MemoryQueue, handler: Handler, prefetch: int) -> None:
        self.queue = queue
        self._prefetch = prefetch
        self._turns = Turns(queue.spec.name, handler, prefetch)
        self._held: list[MemoryDelivery] = []
        self._cancelled = False
        self._context = contextvars.copy_context()  # handlers run in the subscriber's, not in that of whoever publishes

    @property
    def active(self) -> bool:
        """Whether it takes deliveries now."""
        return self in self.queue.consumers

    @property
    def held(self) -> list[MemoryDelivery]:
        """What is not settled yet."""
        return list(self._held)

    @property
    def has_room(self) -> bool:
        """Whether fewer deliveries than its prefetch are unsettled."""
        return len(self._held) < self._prefetch

    async def cancel(self) -> None:
        """Takes no further deliveries; those under way may still be settled."""
        self._cancelled = True
        self.detach()

    def attach(self) -> None:
        """Takes deliveries (again), unless cancelled."""
        if not self._cancelled and not self.active:
            self.queue.consumers.append(self)
            self.queue.serve()

    def detach(self) -> None:
        """Takes none for now."""
        if self.active:
            self.queue.consumers.remove(self)

    def deliver(self, message: Message) -> None:
        """One message from the queue."""
        self.hold(MemoryDelivery(message, self))

    def hold(self, delivery: MemoryDelivery) -> None:
        """It is this consumer's until it is settled or its lease is lost."""
        self._held.append(delivery)
        self._context.run(self._turns.take, delivery)

    def settled(self, delivery: Delivery) -> None:
        """It is gone from the broker; there is room for the next."""
        self._held = [held for held in self._held if held is not delivery]
        self.queue.serve()

    def lose(self, counted: bool = True) -> None:
        """Everything unsettled goes back to the queue, to whoever takes it next."""
        held, self._held = self._held, []
        for delivery in held:
            delivery.lease.lose()
        self.queue.put_back((delivery.message for delivery in held), counted)


class MemoryBroker:
    """A connection to a `MemoryServer`: its own one unless given.

    broker = MemoryBroker()                   # embedded: everybody shares this one
    worker = MemoryBroker(broker.server)      # a test with several connections that can be lost one by one
    """

    def __init__(self, server: MemoryServer | None = None) -> None:
        self.server = server or MemoryServer()
        self._consumers: list[MemoryConsumer] = []

    async def connect(self) -> None:
        """Nothing to wait for."""

    async def close(self) -> None:
        """Gives back what is unsettled, as a broker does when a connection ends."""
        for consumer in self._consumers:
            await consumer.cancel()
        self.drop_connection()
        self._consumers.clear()

    async def publish(self, publication: Publication) -> None:
        """Routes a message. Yields to the loop before and after, as a network would."""
        await asyncio.sleep(0)
        if publication.transient:
            if self.server.accepting.is_set():
                self.server.route(publication)
            return
        await self._wait_until_accepted()
        if not self.server.route(publication):
            raise Unroutable(f"no queue is bound for {publication.routing_key} on {publication.exchange}")
        await asyncio.sleep(0)

    async def subscribe(self, queue: str, handler: Handler, prefetch: int) -> MemoryConsumer:
        """Calls `handler` for each delivery, at most `prefetch` at a time."""
        consumer = MemoryConsumer(self.server.queues[queue], handler, prefetch)
        self._consumers.append(consumer)
        consumer.attach()
        return consumer

    async def depth(self, queue: str) -> int:
        """Ready messages in the queue."""
        return self.server.depth(queue)

    async def ping(self) -> None:
        """Raises DependencyUnavailable while publishing is refused."""
        if not self.server.accepting.is_set():
            raise DependencyUnavailable("the broker refuses publications")

    def drop_connection(self, counted: bool = True) -> None:
        """Test hook: the connection is lost and made again. `counted=False`: the broker cancelled the consumers instead (4.3's timeout)."""
        for consumer in self._consumers:
            consumer.detach()  # all of them first: what one loses must not go to another of the same connection
        for consumer in self._consumers:
            consumer.lose(counted)
        for consumer in self._consumers:
            consumer.attach()

    async def _wait_until_accepted(self) -> None:
        try:
            async with asyncio.timeout(PUBLISH_DEADLINE_S):
                await self.server.accepting.wait()
        except TimeoutError as error:
            raise DependencyUnavailable("the broker accepted no publication for 30 s") from error
