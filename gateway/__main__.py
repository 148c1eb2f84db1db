"""`python -m gateway`: the gateway of the mesh, on RabbitMQ, an S3 store and PostgreSQL."""

import socket

import uvloop

from gateway.app import Adapters, create_app
from gateway.database.engine import create_engine
from gateway.server import server_of
from gateway.settings import GatewaySettings
from shared.broker.rabbitmq import RabbitBroker
from shared.runtime.logging import configure
from shared.sealing import seal
from shared.storage.minio import MinioStore


async def serve(settings: GatewaySettings) -> None:
    """Runs until a signal ends it."""
    database = create_engine(settings.database_url.get_secret_value())
    broker = RabbitBroker(settings.amqp_url.get_secret_value(), f"gateway@{socket.gethostname()}")
    store = MinioStore.of(settings)
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
    uvloop.run(serve(settings))


__all__ = ["main", "serve", "server_of"]

if __name__ == "__main__":
    main()
