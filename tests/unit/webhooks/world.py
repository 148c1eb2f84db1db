"""A webhooks service with everything around it in one process: broker, store, a scripted receiver."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from services.webhooks.consumer import WebhookConsumer
from services.webhooks.settings import WebhookSettings
from shared.broker.headers import message_headers
from shared.broker.memory import MemoryBroker
from shared.broker.memory_server import MemoryServer, Message
from shared.broker.topology import TOPOLOGY, Topology
from shared.contracts.messages import WebhookMessage
from shared.contracts.routing import DEAD_WEBHOOKS_QUEUE, RETRY_DELAYS_S, TRACKER_QUEUE, WEBHOOKS_QUEUE, WORK_EXCHANGE, retry_queue
from shared.http.posting import Answer, Poster
from shared.ports import Headers, Publication
from shared.sealing import new_seal_key, seal
from shared.storage import keys
from shared.storage.directory import DirectoryStore
from tests.support.eventually import eventually

SEAL_KEY = new_seal_key()
SECRET, OLD_SECRET = "whsec_bWVzaHdvcmstdGVzdHMtbmV3LXNlY3JldA==", "whsec_bWVzaHdvcmstdGVzdHMtb2xkLXNlY3JldA=="
BODY = '{"type": "job.completed", "job_id": "j1", "metadata": {"ü": 1}}'.encode()


def message(**changes: Any) -> WebhookMessage:
    """A delivery of job j1."""
    fields: dict[str, Any] = {
        "job_id": "j1",
        "delivery_id": "d1",
        "type": "job.completed",
        "url": "http://receiver.example/hook",
        "sealed_secrets": seal(SECRET, SEAL_KEY),
        "schedule_s": (10.0, 60.0),
    }
    return WebhookMessage(**fields | changes)


def hurried(factor: float = 1000.0) -> Topology:
    """The topology with retry queues that wait milliseconds instead of seconds."""

    def hurry(policy: Any) -> Any:
        return policy if policy.ttl is None else replace(policy, ttl=policy.ttl / factor)

    return replace(TOPOLOGY, queues=tuple(replace(queue, policy=hurry(queue.policy)) for queue in TOPOLOGY.queues))


@dataclass(frozen=True)
class Post:
    """One call as the receiver saw it."""

    url: str
    body: bytes
    headers: Mapping[str, str]


@dataclass
class ScriptedPoster:
    """Answers one after the other (an exception is raised), the last one for ever."""

    answers: list[Answer | Exception] = field(default_factory=lambda: [Answer(200)])
    posts: list[Post] = field(default_factory=list)
    gate: asyncio.Event | None = None  # calls wait here
    under_way: int = 0
    closed: bool = False

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        self.posts.append(Post(url, body, dict(headers)))
        self.under_way += 1
        try:
            if self.gate is not None:
                await self.gate.wait()
            else:
                await asyncio.sleep(0)
        finally:
            self.under_way -= 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        self.closed = True


@dataclass
class World:
    """Handles for a test."""

    server: MemoryServer
    broker: MemoryBroker
    store: DirectoryStore
    http: Any
    consumer: WebhookConsumer

    async def publish(self, wanted: WebhookMessage, body: bytes | None = None, headers: Headers | None = None) -> None:
        """As the relay does; `headers`: what it went through since."""
        headers = message_headers("webhook.deliver", "/meshwork/gateway", wanted.message_id, wanted.job_id) | dict(headers or {})
        raw = wanted.to_bytes() if body is None else body
        await MemoryBroker(self.server).publish(Publication(WORK_EXCHANGE, WEBHOOKS_QUEUE, raw, wanted.message_id, headers=headers))

    async def store_body(self, wanted: WebhookMessage, body: bytes = BODY) -> None:
        await self.store.put(keys.webhook_body(wanted.job_id, wanted.delivery_id), body)

    def events(self) -> list[dict[str, Any]]:
        """What was told about calls, in order."""
        return [json.loads(m.publication.body) for m in self.server.ready(TRACKER_QUEUE) if m.publication.exchange == "events"]

    def parked(self) -> list[Message]:
        return self.server.ready(DEAD_WEBHOOKS_QUEUE)

    def waiting(self) -> dict[str, int]:
        """How many messages wait in which retry queue."""
        depths = {name: self.server.depth(retry_queue(name)) for name in RETRY_DELAYS_S}
        return {name: depth for name, depth in depths.items() if depth}

    def idle(self) -> bool:
        """Whether the consumer holds nothing and nothing is ready for it."""
        return not self.consumer._under_way and not self.server.depth(WEBHOOKS_QUEUE)

    async def settled(self) -> None:
        """Returns when everything that was published has been dealt with."""
        await eventually(self.idle, 5)


@asynccontextmanager
async def world(
    folder: Path, http: Poster, topology: Topology = TOPOLOGY, started: bool = True, store: Any = None, **settings: Any
) -> AsyncIterator[World]:
    """Everything up; stopped at the end."""
    values: dict[str, Any] = {"seal_key": SecretStr(SEAL_KEY), "grace_s": 2.0, **settings}
    server = MemoryServer(topology)
    broker = MemoryBroker(server)
    artifacts = store or DirectoryStore(folder / "artifacts")
    await artifacts.prepare()
    consumer = WebhookConsumer(broker, artifacts, http, WebhookSettings(**values))
    if started:
        await consumer.start()
    try:
        yield World(server, broker, artifacts, http, consumer)
    finally:
        await consumer.stop()
        await broker.close()


def pauses(*names: str) -> tuple[float, ...]:
    """A schedule of retry queues."""
    return tuple(timedelta(seconds=RETRY_DELAYS_S[name]).total_seconds() for name in names)
