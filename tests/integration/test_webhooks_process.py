"""The webhooks service as a process, on a real RabbitMQ and a real MinIO."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from shared.broker.headers import message_headers
from shared.broker.rabbitmq import RabbitBroker
from shared.contracts.events import EVENT, WebhookAttempted
from shared.contracts.messages import WebhookMessage
from shared.contracts.routing import (
    DEAD_WEBHOOKS_QUEUE,
    HEADER_CODE,
    HEADER_JOB,
    HEADER_REASON,
    TRACKER_QUEUE,
    WEBHOOKS_QUEUE,
    WORK_EXCHANGE,
)
from shared.ports import Delivery, Publication
from shared.storage import keys
from shared.storage.minio import MinioStore
from tests.support.brokers import Inbox
from tests.support.eventually import eventually
from tests.support.servers import S3Server
from tests.unit.http.server import Reply, local_server
from tests.unit.webhooks.world import BODY, SEAL_KEY, SECRET, message

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Mesh:
    """What is around the process."""

    broker: RabbitBroker
    store: MinioStore
    environment: dict[str, str]
    events: list[WebhookAttempted] = field(default_factory=list)
    health_port: int = 0

    async def deliver(self, wanted: WebhookMessage) -> None:
        await self.store.put(keys.webhook_body(wanted.job_id, wanted.delivery_id), BODY)
        headers = message_headers("webhook.deliver", "/meshwork/gateway", wanted.message_id, wanted.job_id)
        publication = Publication(WORK_EXCHANGE, WEBHOOKS_QUEUE, wanted.to_bytes(), wanted.message_id, "webhook.deliver", headers)
        await self.broker.publish(publication)

    def outcomes(self, delivery_id: str) -> list[str]:
        return [event.outcome for event in self.events if event.delivery_id == delivery_id]

    @asynccontextmanager
    async def service(self) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.webhooks", cwd=ROOT, env=self.environment)
        try:
            await eventually(self.is_ready, 30, 0.1)
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def is_ready(self) -> bool:
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                return (await client.get(f"http://127.0.0.1:{self.health_port}/readyz")).status_code == 200
            except httpx.TransportError:
                return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def mesh(amqp_url: str, s3_server: S3Server, s3_bucket: str) -> AsyncIterator[Mesh]:
    store = MinioStore(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, s3_bucket)
    await store.prepare()
    broker = RabbitBroker(amqp_url, "test")
    await broker.connect()
    port = free_port()
    environment = os.environ | {
        "MESHWORK_AMQP_URL": amqp_url,
        "MESHWORK_S3_ENDPOINT": s3_server.endpoint,
        "MESHWORK_S3_ACCESS_KEY": s3_server.access_key,
        "MESHWORK_S3_SECRET_KEY": s3_server.secret_key,
        "MESHWORK_S3_BUCKET": s3_bucket,
        "MESHWORK_SEAL_KEY": SEAL_KEY,
        "MESHWORK_ALLOWED_PRIVATE_NETWORKS": "127.0.0.1/32",
        "MESHWORK_HEALTH_PORT": str(port),
        "MESHWORK_GRACE_S": "10",
    }
    mesh = Mesh(broker, store, environment, health_port=port)

    async def remember(delivery: Delivery) -> None:
        if delivery.exchange == "events":
            event = EVENT.validate_json(delivery.body)
            assert isinstance(event, WebhookAttempted)
            mesh.events.append(event)
        await delivery.ack()

    await broker.subscribe(TRACKER_QUEUE, remember, 10)
    yield mesh
    await broker.close()
    await store.close()


async def test_a_webhook_travels_through_the_real_mesh(mesh: Mesh) -> None:
    """Delivered and signed; a failure comes back from the retry queue after ten seconds; 410 parks; SIGTERM ends it cleanly."""
    replies = {"/flaky": [Reply(500), Reply(200)], "/gone": [Reply(410)], "/good": [Reply(200)]}
    async with mesh.service() as process, local_server(lambda request: replies[request.path].pop(0)) as receiver:
        for name in ("flaky", "gone", "good"):
            await mesh.deliver(message(delivery_id=name, url=receiver.url(f"/{name}")))
        await eventually(lambda: mesh.outcomes("good") == ["delivered"] and mesh.outcomes("gone") == ["parked"], 20)
        await eventually(lambda: mesh.outcomes("flaky") == ["failed", "delivered"], 30)

        for request in receiver.requests:
            Webhook(SECRET).verify(request.body, dict(request.headers))
        assert await mesh.broker.depth(DEAD_WEBHOOKS_QUEUE) == 1
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0


@pytest.mark.parametrize("odd_id", ["", "..", "\ud800"], ids=ascii)
async def test_a_message_that_nobody_can_read_keeps_no_place(mesh: Mesh, odd_id: str) -> None:
    """Valid JSON with an id that is none, and room for one delivery at a time: it is parked with its reason, and the next one arrives."""
    mesh.environment["MESHWORK_WEBHOOK_PREFETCH"] = "1"
    parked = Inbox()
    await mesh.broker.subscribe(DEAD_WEBHOOKS_QUEUE, parked, 10)
    body = json.dumps({**json.loads(message().to_bytes()), "job_id": odd_id}).encode()
    headers = message_headers("webhook.deliver", "/meshwork/gateway", "poison", "j1")
    async with mesh.service(), local_server(lambda _: Reply(200)) as receiver:
        await mesh.broker.publish(Publication(WORK_EXCHANGE, WEBHOOKS_QUEUE, body, "poison", "webhook.deliver", headers))
        await mesh.deliver(message(delivery_id="next", url=receiver.url()))
        await eventually(lambda: mesh.outcomes("next") == ["delivered"], 20)
        await eventually(lambda: body in parked.bodies, 20)

    (evidence,) = [delivery for delivery in parked.deliveries if delivery.body == body]
    await evidence.ack()
    assert (evidence.headers[HEADER_CODE], evidence.headers[HEADER_JOB]) == ("INTERNAL", "j1")
    assert "the message is no webhook message" in str(evidence.headers[HEADER_REASON])


async def test_kill_9_during_a_call_repeats_it_with_the_same_id(mesh: Mesh) -> None:
    """Nothing is lost: the next process makes the call again, and the receiver can tell by the id."""
    replies = [Reply(200, delay_s=60), Reply(200)]
    async with local_server(lambda _: replies.pop(0)) as receiver:
        async with mesh.service() as process:
            await mesh.deliver(message(delivery_id="killed", url=receiver.url()))
            await eventually(lambda: receiver.requests, 20)
            process.kill()
            await process.wait()
        async with mesh.service():
            await eventually(lambda: mesh.outcomes("killed") == ["delivered"], 30)
        assert [request.headers["webhook-id"] for request in receiver.requests] == ["killed", "killed"]


async def test_sigterm_lets_a_call_under_way_finish(mesh: Mesh) -> None:
    """The receiver's answer counts although the process was told to go."""
    async with mesh.service() as process, local_server(lambda _: Reply(200, delay_s=2)) as receiver:
        await mesh.deliver(message(delivery_id="last", url=receiver.url()))
        await eventually(lambda: receiver.requests, 20)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0
        await eventually(lambda: mesh.outcomes("last") == ["delivered"], 10)
        assert len(receiver.requests) == 1
