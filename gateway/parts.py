"""Everything that the routes use, put together once in app.py."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from gateway.database.repositories import JobRepository
from gateway.door import Door
from gateway.links import Links
from gateway.live import LiveFeed
from gateway.problems import Problem
from gateway.rate_limit import Rates
from gateway.readiness import Readiness
from gateway.settings import GatewaySettings
from gateway.streams import Streams
from gateway.tenants import Tenants
from shared.ports import ArtifactStore

COPIES_AT_ONCE = 4  # of photos in the store, by all retries: each holds one of the store's threads, and the relay needs some


@dataclass(frozen=True)
class Parts:
    """What a request may need."""

    settings: GatewaySettings
    tenants: Tenants
    rates: Rates
    door: Door
    jobs: JobRepository
    store: ArtifactStore
    links: Links
    feed: LiveFeed
    streams: Streams
    readiness: Readiness
    exposition: Callable[[], tuple[bytes, str]]
    new_id: Callable[[], str]
    has_schema: Callable[[], bool]
    copies: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(COPIES_AT_ONCE))


async def _parts(connection: HTTPConnection) -> Parts:
    parts: Parts = connection.app.state.parts
    return parts


PartsOf = Annotated[Parts, Depends(_parts)]


async def require_schema(parts: PartsOf) -> None:
    """Raises Problem UNAVAILABLE until the database has its tables: a start waits for a database that is late, and answers meanwhile."""
    if not parts.has_schema():
        raise Problem("UNAVAILABLE", "The service is starting.", headers={"Retry-After": "2"})
