"""What is kept no longer: jobs after their retention, uploads that never ended, outbox rows that were carried out, stalled transactions."""

from datetime import timedelta

from loguru import logger
from sqlalchemy import and_, or_, select

from gateway.database import jobs, outbox
from gateway.database.engine import Database
from gateway.database.models import Job
from gateway.periodic import Periodic

_PAGE = 100


class Retention(Periodic):
    """Runs until stopped; any number of replicas may run."""

    def __init__(
        self,
        database: Database,
        retention: timedelta,
        upload_lifetime: timedelta = timedelta(hours=1),
        interval: timedelta = timedelta(minutes=1),
    ) -> None:
        super().__init__(interval)
        self._database = database
        self._retention = retention
        self._upload_lifetime = upload_lifetime

    async def run_once(self) -> None:
        """Removes everything whose time has come, as DELETE does."""
        if ended := await self._database.end_stalled():
            logger.warning("{} transactions of a gateway that was frozen are ended", ended)
        while await self._remove_some() == _PAGE:
            pass
        async with self._database.write() as rows:
            await outbox.forget_sent(rows)

    async def _remove_some(self) -> int:
        async with self._database.write() as rows:
            over = or_(
                Job.finished_at < rows.now - self._retention,
                and_(Job.status == jobs.UPLOADING, Job.created_at < rows.now - self._upload_lifetime),
            )
            query = select(Job.id).where(over).order_by(Job.id).limit(_PAGE).with_for_update(skip_locked=True)
            found = list(await rows.session.scalars(query))
            for job_id in found:
                await jobs.remove_job(rows, job_id)
        return len(found)
