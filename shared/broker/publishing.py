"""Publishing to RabbitMQ: confirmed and routed, or told plainly that it was not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from weakref import WeakValueDictionary

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity, PublishError
from loguru import logger
from tenacity import AsyncRetrying, retry_if_exception, wait_exponential_jitter

from shared.broker.link import Link, is_blocked
from shared.errors import DependencyUnavailable, Unroutable
from shared.ports import Publication

PUBLISH_DEADLINE_S = 30.0
# A channel of RabbitMQ 3.x that learns late that its consumer's queue was deleted, and finds it there again, takes the consumer for
# recovered: it tells nobody, and drops what is delivered from then on. Cancelled consumers declare the queue themselves after 0.5 s.
REDECLARE_PAUSE_S = 1.0
TRANSIENT_DEADLINE_S = 1.0  # progress: the next one comes within a second

Redeclare = Callable[[AbstractConnection], Awaitable[None]]


class Publisher:
    """Publishes on one link: a channel with confirms, and one without for what may be lost."""

    def __init__(self, link: Link, redeclare: Redeclare) -> None:
        self._link = link
        self._redeclare = redeclare
        self._confirmed = ChannelOf(link, confirms=True)
        self._transient = ChannelOf(link, confirms=False)
        self._in_flight: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def publish(self, publication: Publication) -> None:
        """Returns once the message is in a queue. Tries again while the broker is away, up to 30 s."""
        again = AsyncRetrying(
            wait=wait_exponential_jitter(multiplier=0.05, max=2, jitter=0.1), retry=retry_if_exception(_may_pass), reraise=True
        )
        try:
            async with asyncio.timeout(PUBLISH_DEADLINE_S), self._turn(publication.message_id):
                await again(self._publish_or_redeclare, publication)
        except TimeoutError as error:
            raise DependencyUnavailable(f"the broker confirmed no publication within {PUBLISH_DEADLINE_S:.0f} s") from error
        except PublishError as error:
            raise Unroutable(f"no queue is bound for {publication.routing_key} on {publication.exchange}") from error

    async def tell(self, publication: Publication) -> None:
        """Fire and forget: nothing is raised, nothing is tried again."""
        if not self._link.up:
            return
        try:
            async with asyncio.timeout(TRANSIENT_DEADLINE_S):
                if not await is_blocked(await self._link.connection()):
                    await _send(await self._transient.get(), publication)
        except (TimeoutError, *CONNECTION_EXCEPTIONS) as error:
            logger.debug("dropped a transient message: {}", type(error).__name__)

    @contextlib.asynccontextmanager
    async def _turn(self, message_id: str) -> AsyncIterator[None]:
        # A returned message is told from others by its id alone: two with the same id must not be under way at once.
        lock = self._in_flight.setdefault(message_id, asyncio.Lock())
        async with lock:
            yield

    async def _publish_or_redeclare(self, publication: Publication) -> None:
        try:
            await _send(await self._confirmed.get(), publication)
        except (PublishError, ChannelNotFoundEntity):
            # An operator may have removed a queue, a binding, an exchange: make it again, and only then call it a mistake.
            await asyncio.sleep(REDECLARE_PAUSE_S)
            await self._redeclare(await self._link.connection())
            await _send(await self._confirmed.get(), publication)


class ChannelOf:
    """The channel of a link's present connection, opened when first needed and again after each loss."""

    def __init__(self, link: Link, confirms: bool) -> None:
        self._link = link
        self._confirms = confirms
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()

    async def get(self) -> AbstractChannel:
        """An open channel; waits while the link is down."""
        async with self._opening:
            connection = await self._link.connection()
            if self._channel is None or self._channel.is_closed or connection is not self._connection:
                self._channel = await connection.channel(publisher_confirms=self._confirms, on_return_raises=self._confirms)
                self._connection = connection
            return self._channel


async def _send(channel: AbstractChannel, publication: Publication) -> None:
    exchange = await channel.get_exchange(publication.exchange, ensure=False)
    message = Message(
        publication.body,
        headers=dict(publication.headers),
        content_type="application/json",
        type=publication.type or None,
        message_id=publication.message_id,
        delivery_mode=DeliveryMode.NOT_PERSISTENT if publication.transient else DeliveryMode.PERSISTENT,
    )
    await exchange.publish(message, publication.routing_key, mandatory=not publication.transient)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, CONNECTION_EXCEPTIONS) and not isinstance(error, PublishError)
