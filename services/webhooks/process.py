"""The process around the consumer: adapters, probes, signals."""

import asyncio
import contextlib
import signal
import socket

from services.webhooks.build import build_webhooks
from services.webhooks.consumer import NAME, WebhookConsumer
from services.webhooks.settings import WebhookSettings
from shared.broker.rabbitmq import RabbitBroker
from shared.ports import Broker
from shared.runtime import logging
from shared.runtime.health import HealthServer
from shared.runtime.watchdog import LoopWatchdog
from shared.storage.minio import MinioStore

__all__ = ["build_webhooks", "main", "serve"]


def main() -> None:
    """Runs the service until SIGTERM."""
    settings = WebhookSettings()
    logging.configure(settings.log_level, settings.log_json, NAME)
    asyncio.run(serve(settings))


async def serve(settings: WebhookSettings) -> None:
    """Connects, delivers, and on SIGTERM or SIGINT finishes the calls under way and returns."""
    broker = RabbitBroker(settings.amqp_url.get_secret_value(), f"{NAME}@{socket.gethostname()}")
    store = MinioStore.of(settings)
    consumer = build_webhooks(broker, store, settings)
    watchdog = LoopWatchdog(NAME, settings.blocked_loop_warn_s, settings.blocked_loop_exit_s)
    watchdog.start(asyncio.get_running_loop())
    health = HealthServer(settings.health_port, consumer.ready, settings.health_host)
    await health.start()
    running = asyncio.create_task(_deliver(broker, consumer))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await consumer.stop()
    finally:
        await broker.close()
        await store.close()
        await health.stop()
        watchdog.stop()


async def _deliver(broker: Broker, consumer: WebhookConsumer) -> None:
    """Until cancelled."""
    await broker.connect()
    await consumer.start()
    await asyncio.Event().wait()
