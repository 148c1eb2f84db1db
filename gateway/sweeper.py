"""The sweeper: publishes the current step of a job again that nobody has told about for longer than that step may take.

It should never find one. Where a message was lost all the same, it is what brings the job on.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from loguru import logger
from sqlalchemy import literal, select, tuple_

from gateway.current_step import again, current_step
from gateway.database import jobs, outbox
from gateway.database.engine import Database, Rows
from gateway.database.models import Job, UtcDateTime
from gateway.database.records import UNFINISHED
from gateway.periodic import Periodic
from shared.contracts.routing import stage_queue
from shared.contracts.slip import RoutingSlip
from shared.ports import Broker

LONG_SILENCE = timedelta(days=1)  # after which a job is published again though its queue is not empty
_PAGE = 100


@dataclass(frozen=True)
class _Silent:
    id: str
    last_news_at: datetime


class Sweeper(Periodic):
    """Runs until stopped; any number of replicas may run. `min_silence`: shorter ones are not looked at."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        interval: timedelta = timedelta(minutes=1),
        min_silence: timedelta = timedelta(minutes=1),
    ) -> None:
        super().__init__(interval)
        self._database = database
        self._broker = broker
        self._min_silence = min_silence

    async def run_once(self) -> None:
        """Looks at every job that was let in and has been silent."""
        depths: dict[str, int] = {}
        async for page in self._silent_jobs():
            for silent in page:
                await self._look_at(silent, depths)

    async def _silent_jobs(self) -> AsyncIterator[Sequence[_Silent]]:
        query = select(Job.id, Job.last_news_at).where(Job.status.in_(UNFINISHED), Job.admitted_at.is_not(None))
        query = query.order_by(Job.last_news_at, Job.id).limit(_PAGE)
        after = None
        while True:
            async with self._database.read() as rows:
                due = query.where(Job.last_news_at < rows.now - self._min_silence)
                if after is not None:
                    position = tuple_(literal(after.last_news_at, UtcDateTime), literal(after.id))
                    due = due.where(tuple_(Job.last_news_at, Job.id) > position)
                page = [_Silent(*row) for row in await rows.session.execute(due)]
            if not page:
                return
            yield page
            after = page[-1]

    async def _look_at(self, silent: _Silent, depths: dict[str, int]) -> None:
        async with self._database.read() as rows:
            queue = await self._silent_queue(rows, silent)
            now = rows.now
        if queue is None:
            return
        if queue not in depths:
            depths[queue] = await self._broker.depth(queue)
        if depths[queue] > 0 and now - silent.last_news_at <= LONG_SILENCE:
            return  # its message is most likely among those
        async with self._database.write() as rows:
            await self._publish_again(rows, silent)

    async def _silent_queue(self, rows: Rows, silent: _Silent) -> str | None:
        """The queue of the job's current step, if the job has been silent for longer than that step may take."""
        job = await rows.session.get(Job, silent.id)
        if job is None or await outbox.has_pending(rows, job.id):
            return None
        step = current_step(await jobs.steps_of(rows, job.id))
        limit = timedelta(seconds=RoutingSlip.model_validate(job.slip).steps[step.position].hard_limit_s)
        return stage_queue(step.stage) if rows.now - job.last_news_at > limit else None

    async def _publish_again(self, rows: Rows, silent: _Silent) -> None:
        """Unless there was news, or another replica did it, since we looked."""
        job = await jobs.lock_job(rows, silent.id)
        if job is None or job.status not in UNFINISHED or job.last_news_at != silent.last_news_at:
            return
        if await outbox.has_pending(rows, job.id):
            return
        step = current_step(await jobs.steps_of(rows, job.id))
        logger.warning("job {} was silent at {} since {}: published again", job.id, step.name, job.last_news_at)
        job.last_news_at = rows.now
        rows.to_outbox(job.id, "publish", again(step))
