"""Connections to PostgreSQL that ended while they rested in the pool."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text

from gateway.database import engine
from gateway.database.engine import Database, create_engine


async def processes_of(database: Database) -> set[int]:
    async with database.read() as one, database.read() as other:
        return {await rows.session.scalar(text("SELECT pg_backend_pid()")) for rows in (one, other)}


async def end_them(database: Database, processes: set[int]) -> None:
    """As a restart does."""
    async with database.read() as rows:
        for process in processes:
            await rows.session.execute(text("SELECT pg_terminate_backend(:process)"), {"process": process})


async def use_after_end(database: Database) -> tuple[set[int], set[int]]:
    """Who served before, and who serves after each of them was ended."""
    other = create_engine(database.engine.url.render_as_string(hide_password=False))
    try:
        before = await processes_of(database)
        await end_them(other, before)
        await asyncio.sleep(0.2)  # what the server said on parting has arrived
        return before, await processes_of(database)
    finally:
        await other.close()


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    database = create_engine(postgres_url)
    yield database
    await database.close()


async def test_connections_that_the_server_ended_are_made_again(database: Database) -> None:
    """A restart of PostgreSQL costs at most the transactions under way."""
    before, after = await use_after_end(database)
    assert not before & after


async def test_one_that_rested_is_asked_before_it_is_used(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_LONG_REST_S", -1.0)
    monkeypatch.setattr(asyncpg.Connection, "is_closed", lambda _: False)  # a server that vanished without a word
    before, after = await use_after_end(database)
    assert not before & after
