"""The broker that runs the mesh: RabbitMQ, behind `shared.ports.Broker`.

Publishing and consuming have a connection each, so that a broker that holds back publishers never holds back acks.
"""

import asyncio

from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from shared.broker.declaration import declare
from shared.broker.link import Link, is_blocked
from shared.broker.publishing import ChannelOf, Publisher
from shared.broker.subscription import RabbitSubscription
from shared.broker.topology import TOPOLOGY, Topology
from shared.errors import DependencyUnavailable
from shared.ports import Handler, Publication

ANSWER_TIMEOUT_S = 5.0


class RabbitBroker:
    """`name` is what the management UI shows for its connections, e.g. `sfm@host` as `sfm@host#consume`."""

    def __init__(self, url: str, name: str, topology: Topology = TOPOLOGY) -> None:
        self._topology = topology
        self._publish_link = Link(url, f"{name}#publish", self._declare)
        self._consume_link = Link(url, f"{name}#consume", self._declare)
        self._publisher = Publisher(self._publish_link, self._declare)
        self._questions = ChannelOf(self._publish_link, confirms=False)
        self._subscriptions: list[RabbitSubscription] = []

    async def connect(self) -> None:
        """Waits for a broker that is late, however long; declares the topology on every new connection."""
        await asyncio.gather(self._publish_link.connect(), self._consume_link.connect())

    async def close(self) -> None:
        """Ends both connections; what is unsettled goes back to its queue."""
        await asyncio.gather(*(subscription.close() for subscription in self._subscriptions))
        self._subscriptions.clear()
        await asyncio.gather(self._publish_link.close(), self._consume_link.close())

    async def publish(self, publication: Publication) -> None:
        """Returns once the broker confirmed and routed it. Raises DependencyUnavailable after 30 s, Unroutable when no queue is bound."""
        if publication.transient:
            await self._publisher.tell(publication)
        else:
            await self._publisher.publish(publication)

    async def subscribe(self, queue: str, handler: Handler, prefetch: int) -> RabbitSubscription:
        """Calls `handler` for each delivery, at most `prefetch` at a time, again after every reconnect."""
        subscription = RabbitSubscription(self._consume_link, queue, handler, prefetch, self._declare)
        self._subscriptions.append(subscription)
        await subscription.started()
        return subscription

    async def depth(self, queue: str) -> int:
        """Ready messages in the queue."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                channel = await self._questions.get()
                answer = await channel.declare_queue(queue, passive=True)
        except (TimeoutError, *CONNECTION_EXCEPTIONS) as error:
            raise DependencyUnavailable(f"the broker does not say how long {queue} is") from error
        return answer.declaration_result.message_count or 0

    async def ping(self) -> None:
        """Raises DependencyUnavailable unless it is connected both ways and takes publications."""
        if not (self._publish_link.up and self._consume_link.up):
            raise DependencyUnavailable("there is no connection to the broker")
        if await is_blocked(await self._publish_link.connection()):
            raise DependencyUnavailable("the broker refuses publications: it is short of memory or disk")
        await self.depth(self._topology.queues[0].name)

    async def _declare(self, connection: AbstractConnection) -> None:
        await declare(connection, self._topology)
