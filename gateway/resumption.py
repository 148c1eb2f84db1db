"""After a restart of the embedded mode, whose broker forgets: everything that has not ended is published again, from the rows."""

from loguru import logger
from sqlalchemy import func, select
from sqlalchemy.orm import defer

from gateway.current_step import again, current_step
from gateway.database import jobs, outbox
from gateway.database.engine import Database, Rows
from gateway.database.models import DeliveryAttemptRow, DeliveryRow, Job, OutboxRow
from gateway.database.records import UNFINISHED
from gateway.endings import end_job, failed
from gateway.links import Links

MAX_RESUMED = 5  # as for the broker's redeliveries: what was lost that often is given up


async def resume(database: Database, links: Links) -> None:
    """To be called once at start, before the relay. Jobs still to be let in, and rows not sent, are the relay's own matter."""
    async with database.write() as rows:
        await outbox.clear_leases(rows)
        job_ids = list(await rows.session.scalars(select(Job.id).where(Job.status.in_(UNFINISHED), Job.admitted_at.is_not(None))))
        without_bodies = select(DeliveryRow).options(defer(DeliveryRow.body, raiseload=True))
        deliveries = list(await rows.session.scalars(without_bodies.where(DeliveryRow.status == "pending")))
        pending = set(await rows.session.scalars(select(OutboxRow.job_id).where(OutboxRow.kind == "publish", OutboxRow.sent_at.is_(None))))
        for job_id in job_ids:
            if job_id not in pending:
                await _resume_job(rows, job_id, links)
        for delivery in deliveries:
            await _resume_delivery(rows, delivery)
    if job_ids or deliveries:
        logger.info("resumed {} jobs and {} webhooks", len(job_ids), len(deliveries))


async def _resume_job(rows: Rows, job_id: str, links: Links) -> None:
    job = await jobs.lock_job(rows, job_id)
    steps = await jobs.steps_of(rows, job_id)
    if job is None:
        return
    step = current_step(steps)
    if step.status == "processing":  # one that only waited in its queue has not cost a worker
        step.resumed += 1
    if step.resumed >= MAX_RESUMED:
        await end_job(rows, job, steps, failed("WORKER_LOST", step.name), links)
        return
    job.last_news_at = rows.now
    rows.to_outbox(job_id, "publish", again(step))


async def _resume_delivery(rows: Rows, delivery: DeliveryRow) -> None:
    waiting = select(OutboxRow).where(OutboxRow.job_id == delivery.job_id, OutboxRow.kind == "webhook", OutboxRow.sent_at.is_(None))
    if any(row.payload["delivery_id"] == delivery.id for row in await rows.session.scalars(waiting)):
        return
    calls = await rows.session.scalar(select(func.count()).where(DeliveryAttemptRow.delivery_id == delivery.id))
    rows.to_outbox(delivery.job_id, "webhook", {"delivery_id": delivery.id, "attempt": 1 + (calls or 0)})
