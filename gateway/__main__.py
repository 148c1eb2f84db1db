"""`python -m gateway`: the gateway of the mesh, on RabbitMQ, an S3 store and PostgreSQL."""

import asyncio
import socket

import uvicorn

from gateway.app import Adapters, create_app
from gateway.database.engine import create_engine
from gateway.settings import GatewaySettings
from shared.broker.rabbitmq import RabbitBroker
from shared.runtime.logging import configure
from shared.sealing import seal
from shared.storage.minio import MinioStore

MAX_SOCKET_MESSAGE_BYTES = 64 << 10  # nothing that a watcher says matters


def server_of(app: object, settings: GatewaySettings) -> uvicorn.Server:
    """The HTTP server around the application."""
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # the gateway logs requests itself, without the signatures in their queries
        server_header=False,
        ws_max_size=MAX_SOCKET_MESSAGE_BYTES,
        timeout_graceful_shutdown=int(settings.grace_s),
    )
    return uvicorn.Server(config)


async def serve(settings: GatewaySettings) -> None:
    """Runs until a signal ends it."""
    database = create_engine(settings.database_url.get_secret_value())
    broker = RabbitBroker(settings.amqp_url.get_secret_value(), f"gateway@{socket.gethostname()}")
    store = MinioStore(
        settings.s3_endpoint,
        settings.s3_access_key,
        settings.s3_secret_key.get_secret_value(),
        settings.s3_bucket,
        settings.s3_public_endpoint,
        settings.s3_region,
    )
    adapters = Adapters(database, broker, store, prepare_store=lambda: store.prepare(settings.retention))
    try:
        await server_of(create_app(settings, adapters), settings).serve()
    finally:
        await broker.close()
        await store.close()
        await database.close()


def main() -> None:
    """Reads the settings; one that is missing or wrong ends the start with its name."""
    settings = GatewaySettings()
    seal("", settings.seal_key.get_secret_value())  # better no start than webhooks that can never be sent
    configure(settings.log_level, settings.log_json, "gateway")
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
