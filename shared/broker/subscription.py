"""A consumer on RabbitMQ that comes back: after a lost connection, a closed channel, and a cancel by the broker."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from loguru import logger

from shared.broker.consuming import Lease, Turns
from shared.broker.delivery import RabbitDelivery
from shared.broker.link import Link, is_blocked
from shared.ports import Handler

OPEN_TIMEOUT_S = 20.0
CLOSE_TIMEOUT_S = 5.0
PAUSE_S = 0.5  # before a consumer that ended is made again
# A channel of RabbitMQ 3.x whose consumer's queue is deleted and made again at once drops all that is delivered, and tells nobody.
RENEW_S = 60.0  # after which a consumer that got nothing is made anew


class Consumer:
    """One life of a subscription's consumer: a channel of its own, and one lease that all its deliveries share."""

    def __init__(self, queue: str, turns: Turns) -> None:
        self.lease = Lease()
        self.finished = asyncio.Event()  # the lease is lost; or it was stopped, and everything is settled
        self.closing = False  # its channel is being closed now
        self._queue = queue
        self._turns = turns
        self._channel: AbstractChannel | None = None
        self._tag = ""
        self._held = 0
        self._received = 0
        self._stopping = False

    async def open(self, connection: AbstractConnection, prefetch: int) -> None:
        """Consumes from now on."""
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            self._channel = await connection.channel(publisher_confirms=False)
            await self._channel.set_qos(prefetch_count=prefetch)
            underlay = await self._channel.get_underlay_channel()
            underlay.closing.add_done_callback(self._end)
            underlay.on_consumer_cancel_callbacks.add(self._end)
            queue = await self._channel.get_queue(self._queue, ensure=False)
            self._tag = await queue.consume(self._receive)

    async def idles(self) -> bool:
        """True once it has held and got nothing for RENEW_S; False once it has finished."""
        while True:
            received = self._received
            try:
                async with asyncio.timeout(RENEW_S):
                    await self.finished.wait()
                return False
            except TimeoutError:
                if self._held == 0 and self._received == received and not self._stopping:
                    return True

    async def withdraw(self) -> bool:
        """Takes nothing more, and holds nothing: another may take its place. False where something came meanwhile: it goes on."""
        assert self._channel is not None
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            queue = await self._channel.get_queue(self._queue, ensure=False)
            await queue.cancel(self._tag)
            if self._held == 0:
                return True
            if not self._stopping:
                await queue.consume(self._receive, consumer_tag=self._tag)  # the same: who stops it meanwhile cancels this one
            return False

    async def stop(self) -> None:
        """Takes nothing more."""
        self._stopping = True
        if self._channel is not None and not self.lease.lost:
            with contextlib.suppress(TimeoutError, *CONNECTION_EXCEPTIONS):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    queue = await self._channel.get_queue(self._queue, ensure=False)
                    await queue.cancel(self._tag)
        self._finish_when_settled()

    async def close(self) -> None:
        """What is unsettled goes back to the queue."""
        self._end()
        if self._channel is None:
            return
        self.closing = True
        try:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._channel.close()
        finally:
            self.closing = False

    async def _receive(self, message: AbstractIncomingMessage) -> None:
        # Only hands over: aiormq cancels this task together with the channel, a handler must outlive it.
        if self._stopping:
            return
        self._held += 1
        self._received += 1
        self._turns.take(RabbitDelivery(self._queue, message, self.lease, self._settled))

    def _settled(self) -> None:
        self._held -= 1
        self._finish_when_settled()

    def _finish_when_settled(self) -> None:
        if self._stopping and self._held == 0:
            self.finished.set()

    def _end(self, _: Any = None) -> None:
        self.lease.lose()
        self.finished.set()


class RabbitSubscription:
    """Keeps a consumer on a queue until cancelled. `redeclare` makes a queue again that somebody deleted."""

    def __init__(
        self, link: Link, queue: str, handler: Handler, prefetch: int, redeclare: Callable[[AbstractConnection], Awaitable[None]]
    ) -> None:
        self._link = link
        self._queue = queue
        self._prefetch = prefetch
        self._redeclare = redeclare
        self._turns = Turns(queue, handler, prefetch)
        self._consumer: Consumer | None = None
        self._started = asyncio.Event()
        self._cancelled = False
        self._task = asyncio.create_task(self._keep(), name=f"consume {queue}")

    @property
    def active(self) -> bool:
        """Whether the broker knows this consumer now."""
        return not self._cancelled and self._consumer is not None and not self._consumer.lease.lost

    async def started(self) -> None:
        """Returns when it consumes for the first time."""
        await self._started.wait()

    async def cancel(self) -> None:
        """Takes no further deliveries. Its channel stays open until those under way are settled."""
        self._cancelled = True
        self._turns.close()
        if self._consumer is not None:
            await self._consumer.stop()

    async def close(self) -> None:
        """Ends at once, but for a channel that is being closed: broken off, the broker would end the whole connection."""
        self._cancelled = True
        self._turns.close()
        if self._consumer is None or not self._consumer.closing:
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        previous: AbstractConnection | None = None
        while not self._cancelled:
            connection = await self._link.connection()
            if self._cancelled:
                return
            try:
                if connection is previous:  # the consumer ended, the connection did not: perhaps the queue is gone
                    await self._redeclare(connection)
                await self._live(connection)
            except (TimeoutError, *CONNECTION_EXCEPTIONS) as error:
                logger.warning("could not consume: {}", f"{type(error).__name__}: {error}", queue=self._queue)
            previous = connection
            if not self._cancelled:
                await asyncio.sleep(PAUSE_S)

    async def _live(self, connection: AbstractConnection) -> None:
        """Until its consumer ends. One that idles is replaced, it may be forgotten; not where the broker hears nothing from us."""
        consumer: Consumer | None = None
        try:
            while consumer is None or await consumer.idles():
                if consumer is not None and (await is_blocked(connection) or not await consumer.withdraw()):
                    continue
                idle, consumer = consumer, Consumer(self._queue, self._turns)
                try:
                    await self._open(consumer, connection)
                finally:
                    if idle is not None:
                        await idle.close()
            if not self._cancelled:
                logger.warning("a consumer ended; it will be made again", queue=self._queue)
        finally:
            if consumer is not None:
                await consumer.close()

    async def _open(self, consumer: Consumer, connection: AbstractConnection) -> None:
        await consumer.open(connection, self._prefetch)
        self._consumer = consumer
        self._started.set()
        if self._cancelled:
            await consumer.stop()
