"""What the parts need from the outside world, as Protocols. Adapters live in shared/broker and shared/storage."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol

# What a header may hold: what AMQP field tables, the memory broker and JSON agree on.
Headers = Mapping[str, str | int]


@dataclass(frozen=True)
class Publication:
    """One message on its way out. `message_id` is deterministic; `transient` ones (progress) are neither persistent nor confirmed."""

    exchange: str
    routing_key: str
    body: bytes
    message_id: str
    type: str = ""
    headers: Headers = field(default_factory=dict)
    transient: bool = False


class Delivery(Protocol):
    """One message as received. Settled by `ack` alone: there is no nack and no reject (see shared/broker/settlement.py)."""

    @property
    def queue(self) -> str:
        """The work queue that it came from, also where a retry brought it back."""

    @property
    def routing_key(self) -> str: ...

    @property
    def exchange(self) -> str: ...

    @property
    def body(self) -> bytes: ...

    @property
    def headers(self) -> Headers: ...

    @property
    def message_id(self) -> str: ...

    @property
    def delivery_count(self) -> int:
        """How often the broker took it back from a lost worker (`x-delivery-count`); 0 on the first delivery."""

    @property
    def lease_lost(self) -> bool:
        """Whether the broker took it back: its connection, channel or consumer ended."""

    async def wait_lease_lost(self) -> None:
        """Returns when the lease is lost; never otherwise."""

    async def ack(self) -> None:
        """Settles it. Raises LeaseLost when the lease is gone."""


Handler = Callable[[Delivery], Awaitable[None]]


class Subscription(Protocol):
    """A consumer that is running."""

    @property
    def active(self) -> bool:
        """Whether the broker knows this consumer now."""

    async def cancel(self) -> None:
        """Takes no further deliveries; those under way may still be settled."""


class Broker(Protocol):
    """Messages in and out. Publishing has a connection of its own."""

    async def connect(self) -> None:
        """Connects (waiting for a broker that is late), declares the topology, and keeps reconnecting from then on."""

    async def close(self) -> None: ...

    async def publish(self, publication: Publication) -> None:
        """Returns once the broker confirmed and routed it. Raises DependencyUnavailable after 30 s, Unroutable when no queue is bound.

        A transient publication is fire and forget: dropped, without an error, where the broker is away or blocks.
        """

    async def subscribe(self, queue: str, handler: Handler, prefetch: int) -> Subscription:
        """Calls `handler` for each delivery, at most `prefetch` at a time, again after every reconnect.

        A handler that raises leaves its delivery unsettled: it is redelivered when the connection is lost.
        """

    async def depth(self, queue: str) -> int:
        """Ready messages in the queue. Raises DependencyUnavailable."""

    async def ping(self) -> None:
        """Raises DependencyUnavailable unless messages can be published now."""


@dataclass(frozen=True)
class StoredFile:
    """One object that was written from a file."""

    key: str
    bytes: int
    sha256: str


class ArtifactStore(Protocol):
    """Objects under keys. Every method raises DependencyUnavailable when the store is away, ObjectMissing for a key that is not there."""

    async def put(self, key: str, data: bytes, content_type: str = "application/json") -> None: ...

    async def get(self, key: str, max_bytes: int = 64 << 20) -> bytes:
        """The whole object. Raises ObjectCorrupt when it is larger than `max_bytes`."""

    async def exists(self, key: str) -> bool: ...

    async def upload(self, path: Path, key: str, content_type: str) -> StoredFile:
        """Writes a file (multipart when large) and returns its size and sha256."""

    async def upload_stream(self, chunks: AsyncIterator[bytes], key: str, content_type: str) -> StoredFile:
        """Writes what comes in, without holding it in memory."""

    async def download(self, key: str, path: Path, sha256: str | None = None) -> int:
        """Writes the object to `path` (parents made, atomically) and returns its size. Raises ObjectCorrupt when the sha256 differs."""

    def stream(self, key: str) -> AsyncIterator[bytes]:
        """The object in chunks."""

    async def copy(self, source: str, target: str) -> None:
        """Copies on the server's side."""

    async def list(self, prefix: str) -> Sequence[str]:
        """Every key below a prefix."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Removes keys; those that are not there are no error."""

    async def presign(self, key: str, expires: timedelta, filename: str, content_type: str) -> str | None:
        """A link for anybody, at the public endpoint; None where the store has no HTTP surface (directory): stream it then."""

    async def ping(self) -> None:
        """Raises DependencyUnavailable unless the bucket answers."""
