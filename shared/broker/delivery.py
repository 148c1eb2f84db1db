"""One message from RabbitMQ in a consumer's hand."""

from collections.abc import Callable, Mapping
from typing import Any

from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from shared.broker.consuming import Lease
from shared.errors import LeaseLost
from shared.ports import Headers


class RabbitDelivery:
    """Belongs to the consumer that received it: the one on a restored connection holds other leases."""

    def __init__(self, queue: str, message: AbstractIncomingMessage, lease: Lease, settled: Callable[[], None]) -> None:
        self._queue = queue
        self._message = message
        self._lease = lease
        self._settled = settled
        self._headers = _plain(message.headers)

    @property
    def queue(self) -> str:
        """The queue that it was consumed from."""
        return self._queue

    @property
    def routing_key(self) -> str:
        """As published; a retry or a dead letter keeps it."""
        return self._message.routing_key or ""

    @property
    def exchange(self) -> str:
        """The exchange that routed it here last."""
        return self._message.exchange or ""

    @property
    def body(self) -> bytes:
        """As published."""
        return self._message.body

    @property
    def headers(self) -> Headers:
        """Texts and numbers among the headers; tables and lists are the broker's own."""
        return self._headers

    @property
    def message_id(self) -> str:
        """As published."""
        return self._message.message_id or ""

    @property
    def delivery_count(self) -> int:
        """How often the broker took it back from a lost worker before."""
        count = self._headers.get("x-delivery-count", 0)
        return count if isinstance(count, int) else 0  # whoever published may have said anything

    @property
    def lease_lost(self) -> bool:
        """Whether the consumer that received it has ended."""
        return self._lease.lost

    async def wait_lease_lost(self) -> None:
        """Returns when the lease is lost; never otherwise."""
        await self._lease.wait()

    async def ack(self) -> None:
        """Settles it, once; raises LeaseLost when the lease is gone."""
        if self._message.processed:
            return
        if self._lease.lost:
            raise LeaseLost
        try:
            await self._message.ack()
        except CONNECTION_EXCEPTIONS as error:
            self._lease.lose()
            raise LeaseLost from error
        self._settled()


def _plain(headers: Mapping[str, Any]) -> dict[str, str | int]:
    texts = {name: value.decode(errors="replace") if isinstance(value, bytes) else value for name, value in headers.items()}
    return {name: value for name, value in texts.items() if isinstance(value, str | int)}
