"""What both brokers do with a delivery once it is here: leases that can be lost, and handlers that take turns."""

import asyncio

from loguru import logger

from shared.errors import LeaseLost
from shared.ports import Delivery, Handler


class Lease:
    """What a delivery is held by. Once lost it stays lost, even if the connection comes back."""

    def __init__(self) -> None:
        self._gone = asyncio.Event()

    @property
    def lost(self) -> bool:
        """Whether the broker took back what was held."""
        return self._gone.is_set()

    def lose(self) -> None:
        """Wakes everybody who waits for it."""
        self._gone.set()

    async def wait(self) -> None:
        """Returns when the lease is lost."""
        await self._gone.wait()


class Turns:
    """Runs a handler for at most `prefetch` deliveries at a time.

    The broker's own prefetch is not enough: after a reconnect it delivers again while the handler of the lost
    delivery is still ending its child. A delivery whose lease goes while it waits for its turn is never handled.
    """

    def __init__(self, queue: str, handler: Handler, prefetch: int) -> None:
        self._queue = queue
        self._handler = handler
        self._slots = asyncio.Semaphore(prefetch)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def take(self, delivery: Delivery) -> None:
        """Handles the delivery in a task of its own, as soon as it has a turn."""
        task = asyncio.create_task(self._run(delivery), name=f"{self._queue} {delivery.message_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Handles nothing more; what is under way goes on."""
        self._closed = True

    async def _run(self, delivery: Delivery) -> None:
        async with self._slots:
            if self._closed or delivery.lease_lost:
                return
            try:
                await self._handler(delivery)
            except LeaseLost:
                logger.info("lost the lease of a message", queue=self._queue, message_id=delivery.message_id)
            except Exception:
                # Unsettled on purpose: the broker gives it to somebody else when this connection ends.
                logger.exception("a handler failed; its message stays unsettled", queue=self._queue, message_id=delivery.message_id)
