"""The gateway's composition root: settings and adapters in, an ASGI application out.

app = create_app(settings, Adapters(database, broker, store))     # the lifespan starts tracker, relay and sweeper
"""

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Depends, FastAPI
from fastapi.staticfiles import StaticFiles

from gateway import __version__
from gateway.answers import Answers
from gateway.auth import FIRST_TENANT, KeyRequired, Keys
from gateway.background import Background, Runner
from gateway.database.engine import Database
from gateway.database.repositories import JobRepository
from gateway.database.upgrade import upgrade_database
from gateway.door import Door
from gateway.links import Links
from gateway.live import LiveFeed
from gateway.openapi import describe
from gateway.parts import Dependency, Parts, require_schema
from gateway.problems import UnexpectedErrors, install
from gateway.rate_limit import RateLimit
from gateway.routes import artifacts, capabilities, events, health, jobs, reconstruct, webhooks
from gateway.settings import GatewaySettings, split_secrets
from gateway.tracker import Tracker
from pipelines.definition import load_pipelines
from pipelines.options import load_options
from shared.http.addresses import AddressPolicy
from shared.ports import ArtifactStore, Broker
from shared.runtime import metrics

CONSOLE = Path(__file__).parent / "console"
# A start that finds its servers is over by then; one that does not goes on behind a gateway that answers.
START_PATIENCE_S = 10.0


async def _nothing() -> None:
    """Nothing to prepare."""


@dataclass(frozen=True)
class Adapters:
    """The outside world. `prepare_store` makes the bucket; `dependencies` adds what readiness shall wait for."""

    database: Database
    broker: Broker
    store: ArtifactStore
    prepare_store: Callable[[], Awaitable[None]] = _nothing
    dependencies: Mapping[str, Dependency] = field(default_factory=dict)


def create_app(settings: GatewaySettings, adapters: Adapters, start_patience_s: float = START_PATIENCE_S) -> FastAPI:
    """The whole gateway. Whoever made the adapters closes them, after the lifespan's end."""
    links = Links(settings.public_url, split_secrets(settings.link_secret), settings.retention)
    schema = _Schema(adapters.database)
    background = Background(
        [("the database", schema.make), ("the store", adapters.prepare_store), ("the broker", adapters.broker.connect)],
        _runners(settings, adapters, links),
    )
    parts = _parts(settings, adapters, links, schema, background)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await background.start(start_patience_s)
        try:
            yield
        finally:
            await parts.feed.close()
            await background.stop()

    app = FastAPI(title="Meshwork", version=__version__, lifespan=lifespan, redirect_slashes=False, redoc_url=None)
    app.state.parts = parts
    _add_routes(app)
    _add_layers(app, settings, parts)
    install(app)
    describe(app)
    return app


class _Schema:
    """Makes the database's tables, and knows whether they are there."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.is_made = False

    async def make(self) -> None:
        """Raises DependencyUnavailable when the database is away."""
        await upgrade_database(self._database)
        self.is_made = True


def _runners(settings: GatewaySettings, adapters: Adapters, links: Links) -> list[Runner]:
    return [Tracker(adapters.database, adapters.broker, adapters.store, links)]


def _parts(settings: GatewaySettings, adapters: Adapters, links: Links, schema: _Schema, background: Background) -> Parts:
    repository = JobRepository(adapters.database, links)
    policy = AddressPolicy.parse(settings.allowed_private_networks)
    return Parts(
        settings=settings,
        keys=Keys([(settings.api_key.get_secret_value(), FIRST_TENANT)]),
        door=Door(load_pipelines(), load_options(), policy, settings.min_images, settings.max_images),
        jobs=repository,
        store=adapters.store,
        links=links,
        feed=LiveFeed(repository.versions_since),
        dependencies={
            "database": Dependency(adapters.database.ping, required=True),
            "broker": Dependency(adapters.broker.ping, required=False),
            "store": Dependency(adapters.store.ping, required=False),
            "background": Dependency(background.ping, required=False),
            **adapters.dependencies,
        },
        exposition=metrics.exposition,
        new_id=lambda: str(uuid.uuid4()),
        has_schema=lambda: schema.is_made,
    )


def _add_routes(app: FastAPI) -> None:
    for module in (reconstruct, jobs, artifacts, events, webhooks, capabilities):
        app.include_router(module.router, dependencies=[Depends(require_schema)])
    app.include_router(health.router)
    app.mount("/console", StaticFiles(directory=CONSOLE, html=True), name="console")


def _add_layers(app: FastAPI, settings: GatewaySettings, parts: Parts) -> None:
    """Added from the innermost to the outermost."""
    if settings.rate_limit_per_minute:
        app.add_middleware(RateLimit, per_minute=settings.rate_limit_per_minute)
    app.add_middleware(KeyRequired, keys=parts.keys)
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(Answers, observe=_observe, clock=time.monotonic)


def _observe(method: str, route: str, status: int, seconds: float) -> None:
    metrics.HTTP_REQUESTS.labels(method=method, route=route, status=str(status)).inc()
    metrics.HTTP_DURATION.labels(method=method, route=route).observe(seconds)
