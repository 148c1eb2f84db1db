"""The composition root of the embedded mode."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from loguru import logger

from deploy.secrets import load_or_make
from gateway.app import Adapters, create_app
from gateway.database.engine import create_engine
from gateway.readiness import Dependency
from gateway.server import server_of
from gateway.settings import GatewaySettings
from services.webhooks.build import build_webhooks
from services.webhooks.consumer import WebhookConsumer
from services.webhooks.settings import WebhookSettings
from shared.broker.memory import MemoryBroker
from shared.contracts.routing import STAGES
from shared.errors import DependencyUnavailable
from shared.runtime.logging import configure
from shared.runtime.settings import WorkerSettings
from shared.runtime.worker import StageWorker
from shared.sealing import seal
from shared.storage.directory import DirectoryStore


def prepare_environment(data: Path, port: int) -> None:
    """Settings that follow from the data folder and the port, and secrets kept in it; what the environment says already wins."""
    (data / "work").mkdir(parents=True, exist_ok=True)
    settings = {
        **load_or_make(data / "secrets.env"),
        "MESHWORK_DATABASE_URL": f"sqlite+aiosqlite:///{data / 'meshwork.sqlite'}",
        "MESHWORK_WORK_DIR": str(data / "work"),
        "MESHWORK_PORT": str(port),
        "MESHWORK_PUBLIC_URL": f"http://127.0.0.1:{port}",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


async def serve(data: Path) -> None:
    """Runs gateway, workers and webhooks until a signal ends it."""
    settings = GatewaySettings()
    seal("", settings.seal_key.get_secret_value())  # better no start than webhooks that can never be sent
    configure(settings.log_level, settings.log_json, "embedded")
    broker, store = MemoryBroker(), DirectoryStore(data / "artifacts")
    database = create_engine(settings.database_url.get_secret_value())
    await broker.connect()
    await store.prepare()
    workers = [StageWorker(f"services.{stage}.stage:{stage.capitalize()}Stage", stage, broker, store, WorkerSettings()) for stage in STAGES]
    webhooks = build_webhooks(broker, store, WebhookSettings())
    running: list[StageWorker | WebhookConsumer] = [*workers, webhooks]
    dependencies = {stage: Dependency(_readiness(worker.ready), required=True) for stage, worker in zip(STAGES, workers, strict=True)}
    app = create_app(settings, Adapters(database, broker, store, resumes=True, dependencies=dependencies))
    try:
        for part in running:
            await part.start()
        logger.info("embedded mode on {}, data in {}", settings.public_url, data)
        await server_of(app, settings).serve()
    finally:
        await asyncio.gather(*(part.stop() for part in running), return_exceptions=True)
        await broker.close()
        await database.close()


def _readiness(states: Callable[[], Mapping[str, bool]]) -> Callable[[], Awaitable[None]]:
    async def ping() -> None:
        if missing := [name for name, there in states().items() if not there]:
            raise DependencyUnavailable(f"waits for {', '.join(missing)}")

    return ping
