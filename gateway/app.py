"""The gateway's composition root: settings and adapters in, an ASGI application out.

app = create_app(settings, Adapters(database, broker, store))     # the lifespan starts tracker, relay and sweeper
"""

import asyncio
import hashlib
import socket
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
from gateway.auth import KeyRequired
from gateway.background import Background, Runner, Track
from gateway.carrying_out import RelaySettings
from gateway.database.engine import Database
from gateway.database.quota import JobQuota
from gateway.database.repositories import JobRepository
from gateway.database.upgrade import upgrade_database
from gateway.door import Door
from gateway.links import Links
from gateway.live import LiveFeed
from gateway.openapi import describe
from gateway.parts import Parts, require_schema
from gateway.patience import when_available
from gateway.problems import UnexpectedErrors, install
from gateway.rate_limit import RateLimit, Rates
from gateway.readiness import Dependency, Readiness
from gateway.relay import Relay
from gateway.resumption import resume
from gateway.retention import Retention
from gateway.routes import artifacts, capabilities, events, health, jobs, reconstruct, retry, webhooks
from gateway.settings import GatewaySettings, split_secrets
from gateway.streams import Streams
from gateway.sweeper import Sweeper
from gateway.tenants import Tenants
from gateway.tracker import Tracker
from pipelines.definition import load_pipelines
from pipelines.options import load_options
from pipelines.slip import check_presets
from shared.broker.headers import message_headers
from shared.contracts.routing import HEADER_TRACEPARENT
from shared.http.addresses import AddressPolicy
from shared.ports import ArtifactStore, Broker, Headers
from shared.runtime import metrics

CONSOLE = Path(__file__).parent / "console"
# A start that finds its servers is over by then; one that does not goes on behind a gateway that answers.
START_PATIENCE_S = 10.0


async def _nothing() -> None:
    """Nothing to prepare."""


@dataclass(frozen=True)
class Adapters:
    """The outside world. Whoever made it closes it, after the application's lifespan.

    `prepare_store` makes the bucket. `resumes`: the broker forgets at a restart (embedded), so what has not ended is published again.
    `dependencies` adds what readiness shall name.
    """

    database: Database
    broker: Broker
    store: ArtifactStore
    prepare_store: Callable[[], Awaitable[None]] = _nothing
    resumes: bool = False
    dependencies: Mapping[str, Dependency] = field(default_factory=dict)


def create_app(settings: GatewaySettings, adapters: Adapters, start_patience_s: float = START_PATIENCE_S) -> FastAPI:
    """The whole gateway. Its lifespan waits `start_patience_s` for servers that are late, then answers 503 until they are there."""
    links = Links(settings.public_url, split_secrets(settings.link_secret), settings.retention)
    tenants = Tenants(settings)
    start = _Start(settings, adapters, links, tenants)
    background = Background(start.tracks(), start.runners())
    parts = _parts(settings, adapters, links, tenants, start, background)

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
    _add_layers(app, tenants, parts.rates)
    install(app)
    describe(app)
    return app


class _Start:
    """What starts after what: tables before the relay, broker and tables before the tracker."""

    def __init__(self, settings: GatewaySettings, adapters: Adapters, links: Links, tenants: Tenants) -> None:
        database, broker, store = adapters.database, adapters.broker, adapters.store
        self._adapters = adapters
        self._links = links
        self._has_schema = asyncio.Event()
        self._tracker = Tracker(database, broker, store, links)
        self._on_rows: list[Runner] = [
            Relay(database, broker, store, _relay_settings(settings, tenants), owner=f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"),
            Sweeper(database, broker),
            Retention(database, settings.retention, settings.upload_lifetime),
        ]

    def has_schema(self) -> bool:
        """Whether the database has its tables."""
        return self._has_schema.is_set()

    def tracks(self) -> list[Track]:
        """To be run side by side."""
        return [self._start_rows, self._start_store, self._start_tracker]

    def runners(self) -> list[Runner]:
        """Everything that may run afterwards."""
        return [*self._on_rows, self._tracker]

    async def _start_rows(self) -> None:
        await when_available(lambda: upgrade_database(self._adapters.database), "the schema")
        if self._adapters.resumes:
            await when_available(lambda: resume(self._adapters.database, self._links), "the restart")
        self._has_schema.set()
        for runner in self._on_rows:
            await runner.start()

    async def _start_store(self) -> None:
        await when_available(self._adapters.prepare_store, "the bucket")

    async def _start_tracker(self) -> None:
        await when_available(self._adapters.broker.connect, "the broker")
        await self._has_schema.wait()
        await when_available(self._tracker.start, "the tracker")


def _relay_settings(settings: GatewaySettings, tenants: Tenants) -> RelaySettings:
    return RelaySettings(
        secrets_of=tenants.webhook_secrets_of,
        seal_key=settings.seal_key.get_secret_value(),
        webhook_schedule_s=settings.webhook_schedule_s,
        in_flight=settings.in_flight,
        make_headers=_headers,
    )


def _headers(kind: str, message_id: str, job_id: str, step: str | None) -> Headers:
    """All messages of a job belong to one trace, also those that a later relay sends."""
    digest = hashlib.sha256(job_id.encode()).hexdigest()
    trace = {HEADER_TRACEPARENT: f"00-{digest[:32]}-{digest[32:48]}-01"}
    return message_headers(kind, "/meshwork/gateway", message_id, job_id, step, parent=trace)


def _parts(settings: GatewaySettings, adapters: Adapters, links: Links, tenants: Tenants, start: _Start, background: Background) -> Parts:
    repository = JobRepository(adapters.database, links, quota=JobQuota(tenants.job_quota_of))
    pipelines, stages = load_pipelines(), load_options()
    check_presets(pipelines, stages)
    policy = AddressPolicy.parse(settings.allowed_private_networks)
    return Parts(
        settings=settings,
        tenants=tenants,
        rates=Rates(tenants.rate_limit_of),
        door=Door(pipelines, stages, policy, settings.min_images, settings.max_images),
        jobs=repository,
        store=adapters.store,
        links=links,
        feed=LiveFeed(repository.versions_since),
        streams=Streams(tenants.max_streams_of),
        readiness=Readiness(_dependencies(adapters, background)),
        exposition=metrics.exposition,
        new_id=lambda: str(uuid.uuid4()),
        has_schema=start.has_schema,
    )


def _dependencies(adapters: Adapters, background: Background) -> dict[str, Dependency]:
    return {
        "database": Dependency(adapters.database.ping, required=True),
        "broker": Dependency(adapters.broker.ping, required=False),
        "store": Dependency(adapters.store.ping, required=False),
        "background": Dependency(background.ping, required=False),
        **adapters.dependencies,
    }


def _add_routes(app: FastAPI) -> None:
    for module in (reconstruct, retry, jobs, artifacts, events, webhooks, capabilities):
        app.include_router(module.router, dependencies=[Depends(require_schema)])
    app.include_router(health.router)
    app.mount("/console", StaticFiles(directory=CONSOLE, html=True), name="console")


def _add_layers(app: FastAPI, tenants: Tenants, rates: Rates) -> None:
    """Added from the innermost to the outermost."""
    app.add_middleware(RateLimit, rates=rates)
    app.add_middleware(KeyRequired, known=tenants)
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(Answers, observe=_observe, clock=time.monotonic)


def _observe(method: str, route: str, status: int, seconds: float) -> None:
    metrics.HTTP_REQUESTS.labels(method=method, route=route, status=str(status)).inc()
    metrics.HTTP_DURATION.labels(method=method, route=route).observe(seconds)
