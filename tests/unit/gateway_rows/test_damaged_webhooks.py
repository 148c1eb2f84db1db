"""A bit flips in the stored body of a webhook: gateway and webhook service together mend it, and nobody is sent the wrong bytes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import SecretStr

from gateway.database.engine import Database
from gateway.database.repositories import JobRepository
from gateway.relay import Relay
from gateway.tracker import Tracker
from services.webhooks.consumer import WebhookConsumer
from services.webhooks.settings import WebhookSettings
from shared.broker.memory import MemoryBroker
from shared.broker.memory_server import MemoryServer
from shared.storage import keys
from shared.storage.directory import DirectoryStore
from tests.support.eventually import eventually
from tests.support.gateway_rows import LINKS, SEAL_KEY, TENANT, deliveries_of, insert, outbox_of, relay_settings
from tests.unit.webhooks.world import ScriptedPoster, hurried, pauses


@asynccontextmanager
async def running(*parts: Relay | Tracker | WebhookConsumer) -> AsyncIterator[None]:
    for part in parts:
        await part.start()
    try:
        yield
    finally:
        for part in reversed(parts):
            await part.stop()


async def test_a_damaged_body_is_never_sent_and_is_stored_again(
    database: Database, repository: JobRepository, store: DirectoryStore
) -> None:
    """The attempt fails visibly; the row still has the text, the relay stores it, and the next attempt sends it."""
    broker = MemoryBroker(MemoryServer(hurried(100)))
    await broker.connect()
    relay = Relay(database, broker, store, relay_settings(webhook_schedule_s=pauses("1m", "1m", "1m")))
    job_id = await insert(database)
    await repository.cancel_job(TENANT, job_id)
    await relay.run_once()
    (delivery,) = await deliveries_of(database, job_id)
    key = keys.webhook_body(job_id, delivery.id)
    await store.put(key, delivery.body.replace("cancelled", "completed").encode())

    poster = ScriptedPoster()
    webhooks = WebhookConsumer(broker, store, poster, WebhookSettings(seal_key=SecretStr(SEAL_KEY)))
    async with running(Tracker(database, broker, store, LINKS), relay, webhooks):

        async def is_delivered() -> bool:
            return (await deliveries_of(database, job_id))[0].status == "delivered"

        await eventually(is_delivered, 20)

    assert [post.body.decode() for post in poster.posts] == [delivery.body]
    assert (await store.get(key)).decode() == delivery.body
    (record,) = await repository.deliveries_of(TENANT, job_id)
    *failed, delivered = record.attempts
    assert failed and all("damaged" in str(attempt.error) for attempt in failed) and delivered.status_code == 200
    assert [row.kind for row in await outbox_of(database, job_id)] == ["tidy"]
    await broker.close()
