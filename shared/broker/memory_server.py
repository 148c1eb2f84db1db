"""Queues in memory that behave as RabbitMQ's quorum queues do under our policies.

No threads, no randomness: order follows from the calls.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from shared.broker.headers import carried_over
from shared.broker.topology import TOPOLOGY, Queue, Topology, matches
from shared.ports import Publication

FIRST_DEATH = ("x-first-death-exchange", "x-first-death-queue", "x-first-death-reason")


@dataclass
class Message:
    """One copy of a publication, in one queue."""

    publication: Publication
    headers: dict[str, str | int] = field(default_factory=dict)
    delivery_count: int = 0

    def copy(self) -> "Message":
        """The same for a further queue, never delivered yet."""
        return Message(self.publication, dict(self.headers))


class Consumer(Protocol):
    """Who takes messages from a queue."""

    @property
    def has_room(self) -> bool: ...

    def deliver(self, message: Message) -> None: ...


class MemoryQueue:
    """Ready messages and consumers, served in rotation. `dead_letter` routes what expired or came back too often."""

    def __init__(self, spec: Queue, dead_letter: Callable[[str, Message], None]) -> None:
        self.spec = spec
        self.ready: deque[Message] = deque()
        self.consumers: deque[Consumer] = deque()
        self._dead_letter = dead_letter

    def put(self, message: Message) -> None:
        """Behind everything else."""
        self.ready.append(message)
        ttl = self.spec.policy.ttl
        if ttl is not None:
            asyncio.get_running_loop().call_later(ttl.total_seconds(), self._expire, message)
        self.serve()

    def put_back(self, messages: Iterable[Message], counted: bool = True) -> None:
        """Before everything else, in the order given, unless one came back too often. `counted`: the worker was lost."""
        limit = self.spec.policy.delivery_limit
        kept = []
        for message in messages:
            message.delivery_count += counted
            if limit is not None and message.delivery_count > limit:
                self._bury(message, "delivery_limit")
            else:
                kept.append(message)
        self.ready.extendleft(reversed(kept))
        self.serve()

    def serve(self) -> None:
        """Hands ready messages to consumers with room, one each in turn."""
        while self.ready:
            consumer = next((candidate for candidate in self.consumers if candidate.has_room), None)
            if consumer is None:
                return
            self.consumers.remove(consumer)
            self.consumers.append(consumer)
            consumer.deliver(self.ready.popleft())

    def _expire(self, message: Message) -> None:
        # By identity: messages with equal content are different messages.
        position = next((i for i, candidate in enumerate(self.ready) if candidate is message), None)
        if position is not None:
            del self.ready[position]
            self._bury(message, "expired")

    def _bury(self, message: Message, reason: str) -> None:
        exchange = self.spec.policy.dead_letter_exchange
        if exchange is None:
            return
        death: dict[str, str | int] = dict(zip(FIRST_DEATH, (message.publication.exchange, self.spec.name, reason), strict=True))
        message.headers = death | message.headers  # the first death stays
        self._dead_letter(exchange, message)


class MemoryServer:
    """What all connections (`MemoryBroker`) of one process share. Its hooks let tests do what networks and operators do."""

    def __init__(self, topology: Topology = TOPOLOGY) -> None:
        self.topology = topology
        self.queues = {spec.name: MemoryQueue(spec, self._dead_letter) for spec in topology.queues}
        self.accepting = asyncio.Event()
        self.accepting.set()

    def route(self, publication: Publication) -> bool:
        """Puts a copy into every bound queue; False where there is none."""
        return self._put(publication.exchange, Message(publication, dict(publication.headers)))

    def depth(self, queue: str) -> int:
        """Ready messages."""
        return len(self.queues[queue].ready)

    def ready(self, queue: str) -> list[Message]:
        """Test hook: what waits in a queue, first to last."""
        return list(self.queues[queue].ready)

    def refuse_publishes(self) -> None:
        """Test hook: publishing blocks, as under a memory alarm, until `accept_publishes`."""
        self.accepting.clear()

    def accept_publishes(self) -> None:
        """Test hook: publishing goes on."""
        self.accepting.set()

    def _put(self, exchange: str, message: Message) -> bool:
        queues = [queue for queue in self.queues.values() if _is_bound(queue.spec, exchange, message.publication.routing_key)]
        for queue in queues:
            queue.put(message.copy())
        return bool(queues)

    def _dead_letter(self, exchange: str, message: Message) -> None:
        again = replace(message.publication, exchange=exchange, headers=carried_over(message.publication.headers))
        self._put(exchange, Message(again, message.headers))


def _is_bound(queue: Queue, exchange: str, routing_key: str) -> bool:
    return any(source == exchange and matches(pattern, routing_key) for source, pattern in queue.bindings)
