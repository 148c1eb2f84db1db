"""Jobs that arrive side by side are committed together: who comes while a commit is under way goes into the next one.

arrivals = Arrivals(database, quota)
created = await arrivals.insert(new)     # returns once the job is committed

A commit waits for the disk, and costs the same for one job as for many. Nobody waits for others to come: an arrival that finds nobody
there is committed at once.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.database import jobs
from gateway.database.engine import Database
from gateway.database.quota import JobQuota
from gateway.database.records import NewJob
from shared.errors import DependencyUnavailable

AT_ONCE = 64  # a transaction of that many rows takes a few milliseconds: more would make those wait who come next


@dataclass(eq=False)  # each is itself, whatever it asks for
class _Arrival:
    """A job and what became of it, both None until its transaction has ended. `tried`: it may have been committed all the same."""

    new: NewJob
    tried: bool = False
    created: bool | None = None
    error: Exception | None = None

    @property
    def is_decided(self) -> bool:
        return self.created is not None or self.error is not None


class Arrivals:
    """New jobs of one process, one transaction at a time. Of a tenant with a quota as many are made as fit."""

    def __init__(self, database: Database, quota: JobQuota) -> None:
        self._database = database
        self._quota = quota
        self._turn = asyncio.Lock()
        self._waiting: list[_Arrival] = []

    async def insert(self, new: NewJob) -> bool:
        """Job, steps and the first outbox row; whether they were made: False where the tenant's key, or the id, is taken.

        Raises QuotaExceeded; and DependencyUnavailable when the database is away: then the job may have been made, or not.
        """
        mine = _Arrival(new)
        self._waiting.append(mine)
        try:
            async with self._turn:  # the lock is fair: whoever has it was decided by an earlier one, or is first in line
                if not mine.is_decided:
                    await self._commit_next()
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
        if mine.error is not None:
            raise mine.error
        return bool(mine.created)

    async def _commit_next(self) -> None:
        batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
        try:
            await self._decide(batch)
        finally:
            left = [arrival for arrival in batch if not arrival.is_decided]  # who began this was cancelled: the next in line begins again
            for arrival in left:
                arrival.tried = True
            self._waiting = left + self._waiting

    async def _decide(self, batch: Sequence[_Arrival]) -> None:
        try:
            async with self._database.write() as rows:
                fitting, refused = await self._quota.sort_out(rows, [arrival.new for arrival in batch])
                created = await jobs.insert_jobs(rows, fitting) if fitting else set()
                if again := [arrival.new.id for arrival in batch if arrival.tried]:
                    created |= await jobs.known(rows, again)
        except DependencyUnavailable as error:
            for arrival in batch:
                arrival.error = DependencyUnavailable(str(error))
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            for arrival in batch:  # one of them is at fault: the others are not made to pay for it
                await self._decide([arrival])
        else:
            for arrival in batch:
                arrival.created, arrival.error = arrival.new.id in created, refused.get(arrival.new.id)
