"""Connections to PostgreSQL that ended: while they rested in the pool, or while whoever had them in a transaction said nothing."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy import text

from gateway.database import engine, jobs
from gateway.database.engine import Database, create_engine
from gateway.database.upgrade import upgrade_database
from shared.errors import DependencyUnavailable
from tests.support.eventually import eventually
from tests.support.gateway_rows import insert, job_of

LARGE = text("SELECT repeat('x', :size)")


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


async def lock(database: Database, job_id: str) -> bool:
    """Whether the job is there. Raises DependencyUnavailable when somebody holds it for too long."""
    async with database.write() as rows:
        return await jobs.lock_job(rows, job_id) is not None


@pytest.mark.parametrize("goes_on", [True, False], ids=["with a statement", "with the commit"])
async def test_who_falls_silent_in_a_transaction_has_lost_it(postgres_url: str, database: Database, goes_on: bool) -> None:
    """Others get what it locked. Whoever goes on in it, as a gateway that was frozen, is told so, and may begin again."""
    await upgrade_database(database)
    job_id = await insert(database)
    frozen = create_engine(postgres_url, silence=timedelta(seconds=1))
    with pytest.raises(DependencyUnavailable):
        async with frozen.write() as rows:
            job = await jobs.lock_job(rows, job_id)
            assert job is not None
            job.message = "lost"
            await rows.session.flush()
            (locked,) = await asyncio.gather(lock(database, job_id), return_exceptions=True)
            if goes_on:
                await rows.session.execute(text("SELECT 1"))
    assert locked is True
    assert (await job_of(frozen, job_id)).message != "lost"
    await frozen.close()


async def test_who_takes_no_answer_has_lost_its_transaction(postgres_url: str, database: Database) -> None:
    """A gateway that is frozen while a large answer is under way is not idle: its network's end says nothing."""
    await upgrade_database(database)
    job_id = await insert(database)
    frozen = create_engine(postgres_url, silence=timedelta(seconds=1))
    with pytest.raises(DependencyUnavailable):
        async with frozen.write() as rows:
            await jobs.lock_job(rows, job_id)
            await rows.session.execute(LARGE, {"size": 1})  # prepares it
            driver = (await (await rows.session.connection()).get_raw_connection()).driver_connection
            assert driver is not None
            driver._transport.pause_reading()
            answer = asyncio.create_task(rows.session.execute(LARGE, {"size": 64 << 20}))
            (locked,) = await asyncio.gather(lock(database, job_id), return_exceptions=True)
            driver._transport.resume_reading()
            await answer
    assert locked is True
    await frozen.close()


async def test_who_is_frozen_within_a_statement_loses_its_transaction(postgres_url: str, database: Database) -> None:
    """A statement that is prepared and not carried out is not idle either; other gateways end it."""
    await upgrade_database(database)
    job_id = await insert(database)
    frozen, silence = create_engine(postgres_url, silence=timedelta(seconds=1)), timedelta(seconds=1)
    with pytest.raises(DependencyUnavailable):
        async with frozen.write() as rows:
            await jobs.lock_job(rows, job_id)
            driver = (await (await rows.session.connection()).get_raw_connection()).driver_connection
            assert driver is not None
            await driver.prepare("SELECT 7 * 6")
            ended = await eventually(lambda: database.end_stalled(silence), 20, 0.1)
            (locked,) = await asyncio.gather(lock(database, job_id), return_exceptions=True)
    assert (ended, locked) == (1, True)
    assert await database.end_stalled(timedelta(0)) == 0
    await frozen.close()


async def test_who_waits_for_a_lock_gives_up_in_time(postgres_url: str, database: Database) -> None:
    """A gateway that is frozen while it waits would get the lock once its holder is gone: the next one to be waited for."""
    await upgrade_database(database)
    job_id = await insert(database)
    waiting = create_engine(postgres_url, silence=timedelta(seconds=3))
    async with database.write() as holder:
        await jobs.lock_job(holder, job_id)
        async with asyncio.timeout(10):
            with pytest.raises(DependencyUnavailable):
                await lock(waiting, job_id)
    assert (await job_of(waiting, job_id)).id == job_id
    await waiting.close()
