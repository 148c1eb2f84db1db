"""The schema: migrations make what the models say, on both databases, whoever starts first."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from gateway.database.engine import Database, create_engine
from gateway.database.models import Base
from gateway.database.upgrade import upgrade
from shared.errors import DependencyUnavailable


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """Without tables: these tests make them."""
    database = create_engine(url)
    yield database
    await database.close()


def _differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, Base.metadata))


async def test_models_and_migrations_agree(url: str, database: Database) -> None:
    """Five gateways that start at once make the schema once; nothing is left for Alembic to generate."""
    await asyncio.gather(*(upgrade(url) for _ in range(5)))
    await upgrade(url)
    async with database.engine.connect() as connection:
        assert await connection.run_sync(_differences) == []


async def test_a_new_file_is_opened_by_several_at_once(tmp_path: Path) -> None:
    """SQLite refuses the change to a write-ahead log at once while another makes it; about one file in eight of these showed it."""
    for file in range(60):
        several = [create_engine(f"sqlite+aiosqlite:///{tmp_path}/{file}.db") for _ in range(5)]
        await asyncio.gather(*(database.ping() for database in several))
        for database in several:
            await database.close()


@pytest.mark.parametrize("away", ["postgresql+asyncpg://nobody@127.0.0.1:1/none", "sqlite+aiosqlite:////no/such/folder/rows.db"])
async def test_a_database_that_is_away_is_named_so(away: str) -> None:
    """Not a driver's error: something to wait for."""
    database = create_engine(away)
    with pytest.raises(DependencyUnavailable):
        await database.ping()
    with pytest.raises(DependencyUnavailable):
        await upgrade(away)
    await database.close()


async def test_a_connection_lost_inside_a_transaction_is_a_dependency_away(postgres_url: str) -> None:
    """Whoever was in the middle may try again."""
    database, other = create_engine(postgres_url), create_engine(postgres_url)
    with pytest.raises(DependencyUnavailable):
        async with database.write() as rows:
            pid = await rows.session.scalar(text("SELECT pg_backend_pid()"))
            async with other.engine.connect() as connection:
                await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            await rows.session.execute(text("SELECT 1"))
    await database.ping()
    for each in (database, other):
        await each.close()
