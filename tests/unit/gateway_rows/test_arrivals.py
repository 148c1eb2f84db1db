"""Jobs that arrive side by side share a transaction, and nothing else."""

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import select

from gateway.database.arrivals import AT_ONCE, Arrivals
from gateway.database.engine import Database
from gateway.database.models import Job
from gateway.database.quota import JobQuota
from shared.errors import DependencyUnavailable
from tests.support.gateway_rows import STEPS, FakeClock, job_of, new_job, outbox_of, steps_of


class Watched:
    """A database whose transactions are counted, and held back or refused before they are committed."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        self.transactions = 0
        self._clock = clock
        self.entered, self.released = asyncio.Event(), asyncio.Event()
        self.away = False
        self._database = database
        self.released.set()

    @asynccontextmanager
    async def write(self) -> Any:
        self._clock.pass_by(seconds=1)
        async with self._database.write() as rows:
            self.transactions += 1
            yield rows
            self.entered.set()
            await self.released.wait()
            if self.away:
                raise DependencyUnavailable("the database: away")


@pytest.fixture
def watched(database: Database, clock: FakeClock) -> Watched:
    return Watched(database, clock)


@pytest.fixture
def arrivals(watched: Watched) -> Arrivals:
    return Arrivals(watched, JobQuota())  # type: ignore[arg-type]


async def test_jobs_that_arrive_side_by_side_are_committed_together(database: Database, watched: Watched, arrivals: Arrivals) -> None:
    """The first goes at once; all others while it is under way, in the order in which they came, each whole."""
    news = [new_job() for _ in range(AT_ONCE + 2)]
    assert await asyncio.gather(*(arrivals.insert(new) for new in news)) == [True] * len(news)
    assert watched.transactions == 3
    async with database.read() as rows:
        assert list(await rows.session.scalars(select(Job.id).order_by(Job.created_at))) == [new.id for new in news]
    for new in (news[0], news[-1]):
        assert [step.name for step in await steps_of(database, new.id)] == list(STEPS)
        assert [row.kind for row in await outbox_of(database, new.id)] == ["publish"]


async def test_one_that_cannot_be_written_is_alone_with_it(database: Database, arrivals: Arrivals) -> None:
    """The others of its transaction are made all the same."""
    good, bad, also_good = new_job(), new_job(metadata={"ratio": float("nan")}), new_job()
    found = await asyncio.gather(*(arrivals.insert(new) for new in (good, bad, also_good)), return_exceptions=True)
    assert (found[0], found[2]) == (True, True) and isinstance(found[1], Exception)
    assert (await job_of(database, good.id)).id == good.id and (await job_of(database, also_good.id)).id == also_good.id


async def test_of_one_key_in_one_transaction_one_is_made(arrivals: Arrivals) -> None:
    """The others are told that it is taken."""
    found = await asyncio.gather(*(arrivals.insert(new_job(key="same")) for _ in range(4)))
    assert sorted(found) == [False, False, False, True]


async def test_who_leaves_takes_nobody_along(database: Database, watched: Watched, arrivals: Arrivals) -> None:
    """A caller whose connection ends while it commits for all: the others are committed by the next of them."""
    watched.released.clear()
    alone = asyncio.create_task(arrivals.insert(new_job()))
    await watched.entered.wait()
    news = [new_job() for _ in range(3)]
    waiting = [asyncio.create_task(arrivals.insert(new)) for new in news]
    await asyncio.sleep(0)
    alone.cancel()
    watched.released.set()
    assert await asyncio.gather(*waiting) == [True] * 3
    assert [(await job_of(database, new.id)).status for new in news] == ["queued"] * 3
    assert await arrivals.insert(new_job()) is True


async def test_a_database_that_is_away_is_away_for_all(watched: Watched, arrivals: Arrivals) -> None:
    """Nobody is told that a job is recorded, and the next may try again."""
    watched.away = True
    found = await asyncio.gather(*(arrivals.insert(new_job()) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in found] == [DependencyUnavailable] * 3
    watched.away = False
    assert await arrivals.insert(new_job()) is True
