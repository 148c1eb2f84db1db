"""The servers of the native mesh, started and ended."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from deploy.native.servers import Postgres, RabbitMq
from tests.support.servers import BrokerServer


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A cluster of its own, in a folder that PostgreSQL's own user gets through to."""
    with tempfile.TemporaryDirectory(prefix="meshwork-postgres-") as folder:
        Path(folder).chmod(0o755)
        server = Postgres(Path(folder) / "cluster", "meshwork", "secret")
        server.start()
        yield server
        server.kill()


async def test_postgres_ends_at_once_although_clients_stay(postgres: Postgres) -> None:
    """Cleanly and within seconds: it does not wait for pools that hold their connections, nor need a kill and a recovery."""
    engine = create_async_engine(postgres.url("postgres"))
    async with engine.connect() as connection:
        await connection.execute(text("select 1"))
        began = time.monotonic()
        await asyncio.to_thread(postgres.stop)
        assert time.monotonic() - began < 15  # the limit after which it would be killed is 30 s
        await connection.invalidate()
    await engine.dispose()
    assert "database system is shut down" in (postgres.folder / "postgres.log").read_text()


def test_the_release_of_rabbitmq_is_known_before_it_runs(rabbitmq_server: BrokerServer) -> None:
    """It decides which definitions the node is started with."""
    if isinstance(rabbitmq_server, RabbitMq):  # else a container or a server elsewhere
        assert rabbitmq_server.management.call("GET", "overview")["rabbitmq_version"] == RabbitMq.release()
