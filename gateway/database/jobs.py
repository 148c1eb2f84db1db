"""Rows of jobs and steps: made, found, locked, removed. Functions over one transaction."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import Table, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import load_only, undefer
from sqlalchemy.orm.interfaces import ORMOption

from gateway.database.engine import NOT_ADMITTED, Rows
from gateway.database.models import Job, OutboxRow, StepRow
from gateway.database.records import JobMissing, NewJob
from shared.contracts.slip import Step

UPLOADING = "uploading"  # hidden until every photo is stored
SECOND_PURGE = timedelta(days=1)  # longer than any hard limit, lease or tolerated stall: a stalled worker may write after the first
_EMPTY_SHA256 = ""
WHOLE = (undefer(Job.request), undefer(Job.report))  # everything that a caller is shown: megabytes of one job, so never of many at once
FILES = (load_only(Job.id, Job.tenant, Job.status, Job.finished_at, Job.artifacts, raiseload=True),)  # for whoever fetches an artifact

# Built once: every batch of the tracker asks them. Both take `job_ids`.
_LOCKED = select(Job).where(Job.id.in_(bindparam("job_ids", expanding=True))).order_by(Job.id).with_for_update()
_LOCKED_NEWS = _LOCKED.options(load_only(Job.last_news_at, raiseload=True))
_STEPS = select(StepRow).where(StepRow.job_id.in_(bindparam("job_ids", expanding=True))).order_by(StepRow.job_id, StepRow.position)
_JOBS, _STEP_ROWS, _OUTBOX = (cast(Table, model.__table__) for model in (Job, StepRow, OutboxRow))
_INSERT = {
    "postgresql": postgresql.insert(_JOBS).on_conflict_do_nothing().returning(_JOBS.c.id),
    "sqlite": sqlite.insert(_JOBS).on_conflict_do_nothing().returning(_JOBS.c.id),
}


def is_id(text: str) -> bool:
    """Whether this could be an id of ours; anything else names no row (and PostgreSQL refuses NUL in a parameter)."""
    return len(text) == 36 and text.isascii() and text.isprintable()


async def insert_jobs(rows: Rows, arrivals: Sequence[NewJob]) -> set[str]:
    """Queued jobs, their steps, and the outbox rows of their first messages; one is left out whose key, or id, is taken.

    Returns the ids of those that were made.
    """
    values = [_row(new, rows.now - timedelta(microseconds=left)) for left, new in enumerate(reversed(arrivals))]  # keeps their order
    # Two replicas that wait for each other's keys in opposite orders would have to be parted by the database.
    values.sort(key=lambda row: (row["tenant"], row["idempotency_key"] or ""))
    made = set(await rows.session.scalars(_INSERT[rows.session.get_bind().dialect.name], values))
    created = [new for new in arrivals if new.id in made]
    if created:
        steps = [_step_row(new.id, position, step) for new in created for position, step in enumerate(new.slip.steps)]
        await rows.session.execute(insert(_STEP_ROWS), steps)
        await rows.session.execute(insert(_OUTBOX), [_first_message(new.id) for new in created])
        rows.wakes.add("publish")
    return made


async def known(rows: Rows, job_ids: Sequence[str]) -> set[str]:
    """Those of the ids that name a job."""
    return set(await rows.session.scalars(select(Job.id).where(Job.id.in_(job_ids))))


def _row(new: NewJob, now: datetime) -> dict[str, Any]:
    values = _columns(new, now)
    return {"id": new.id, "tenant": new.tenant, "metadata": values.pop("metadata_"), **values}


def _step_row(job_id: str, position: int, step: Step) -> dict[str, Any]:
    return {"job_id": job_id, "position": position, "name": step.name, "stage": step.stage}


def _first_message(job_id: str) -> dict[str, Any]:
    return {"job_id": job_id, "kind": "publish", "payload": {"position": 0}, "due_at": NOT_ADMITTED}


def add_hidden_job(rows: Rows, tenant: str, job_id: str) -> None:
    """A row that nobody sees, for an upload under way."""
    rows.session.add(
        Job(
            id=job_id,
            tenant=tenant,
            status=UPLOADING,
            pipeline="",
            preset="",
            slip={},
            request={},
            metadata_={},
            callback_events=[],
            images=[],
            warnings=[],
            artifacts=[],
            report={},
            body_sha256=_EMPTY_SHA256,
            created_at=rows.now,
            last_news_at=rows.now,
        )
    )


async def release_hidden_job(rows: Rows, new: NewJob) -> None:
    """The hidden row becomes a queued job. Raises JobMissing when it was purged."""
    job = await lock_job(rows, new.id)
    if job is None or job.tenant != new.tenant or job.status != UPLOADING:
        raise JobMissing
    for name, value in _columns(new, rows.now).items():
        setattr(job, name, value)
    rows.session.add_all(StepRow(**_step_row(new.id, position, step)) for position, step in enumerate(new.slip.steps))
    rows.session.add(OutboxRow(**_first_message(new.id)))
    rows.wakes.add("publish")


def _columns(new: NewJob, now: datetime) -> dict[str, Any]:
    request = new.request.model_copy(update={"created_at": now})
    return {
        "status": "queued",
        "pipeline": request.pipeline,
        "preset": request.preset,
        "priority": new.priority,
        "slip": new.slip,
        "request": request,
        "metadata_": dict(new.metadata),
        "callback_url": new.callback_url,
        "callback_events": list(new.callback_events),
        "images": [{"name": image.name, "status": "pending", "reason": None} for image in request.images],
        "warnings": [dict(warning) for warning in new.warnings],
        "artifacts": [],
        "report": {},
        "idempotency_key": new.idempotency_key,
        "body_sha256": new.body_sha256,
        "created_at": now,
        "last_news_at": now,
    }


async def visible_job(rows: Rows, tenant: str | None, job_id: str, loading: Sequence[ORMOption] = ()) -> Job | None:
    """The tenant's job, or, for None, whoever owns it; not an upload under way. `loading`: WHOLE, FILES, or all but what is large."""
    job = await rows.session.get(Job, job_id, options=loading) if is_id(job_id) else None
    return job if job is not None and tenant in (None, job.tenant) and job.status != UPLOADING else None


async def job_of_key(rows: Rows, tenant: str, idempotency_key: str) -> Job | None:
    """The tenant's job that was made with this Idempotency-Key."""
    return (await rows.session.scalars(select(Job).where(Job.tenant == tenant, Job.idempotency_key == idempotency_key))).first()


async def lock_job(rows: Rows, job_id: str) -> Job | None:
    """The job, locked until the transaction ends."""
    return (await lock_jobs(rows, [job_id])).get(job_id)


async def lock_jobs(rows: Rows, job_ids: Iterable[str]) -> dict[str, Job]:
    """Those of the jobs that exist, without what is large of them, locked in one order until the transaction ends."""
    return {job.id: job for job in await rows.session.scalars(_LOCKED, {"job_ids": sorted(set(job_ids))})}


async def note_news(rows: Rows, job_ids: Iterable[str]) -> None:
    """Something was heard of these jobs, or sent for them, just now."""
    for job in await rows.session.scalars(_LOCKED_NEWS, {"job_ids": sorted(set(job_ids))}):
        job.last_news_at = rows.now


async def steps_of(rows: Rows, job_id: str) -> list[StepRow]:
    """The steps of a job, in order."""
    return (await steps_by_job(rows, [job_id]))[job_id]


async def steps_by_job(rows: Rows, job_ids: Iterable[str]) -> defaultdict[str, list[StepRow]]:
    """Steps in order, by job."""
    found: defaultdict[str, list[StepRow]] = defaultdict(list)
    for step in await rows.session.scalars(_STEPS, {"job_ids": list(job_ids)}):
        found[step.job_id].append(step)
    return found


async def drop_unsent(rows: Rows, job_id: str, kind: str | None = None) -> None:
    """Removes the job's outbox rows that the relay has not sent: all, or those of one kind."""
    query = delete(OutboxRow).where(OutboxRow.job_id == job_id, OutboxRow.sent_at.is_(None))
    await rows.session.execute(query if kind is None else query.where(OutboxRow.kind == kind))


async def remove_job(rows: Rows, job_id: str) -> None:
    """Removes the row, with steps and deliveries, and everything unsent; the store is purged now and again in a day."""
    await drop_unsent(rows, job_id)
    await rows.session.execute(delete(Job).where(Job.id == job_id))
    rows.to_outbox(job_id, "purge", {})
    rows.to_outbox(job_id, "purge", {}, due_at=rows.now + SECOND_PURGE)
    rows.wakes.add("publish")  # its place in flight is free


async def decide(rows: Rows, job_id: str, status: str, among: tuple[str, ...]) -> bool:
    """The one guard of every ending: whether this transaction moved the job from one of `among` to `status`."""
    query = update(Job).where(Job.id == job_id, Job.status.in_(among)).values(status=status)
    result = await rows.session.execute(query, execution_options={"synchronize_session": False})
    return bool(getattr(result, "rowcount", 0))
