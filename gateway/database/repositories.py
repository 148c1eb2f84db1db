"""Jobs and their webhooks, as the HTTP side asks for them.

jobs = JobRepository(database, links)
inserted = await jobs.insert_job(NewJob(tenant="first", slip=slip, request=request, body_sha256=digest))

Every method is one short transaction and raises DependencyUnavailable when the database is away.
Records are detached: reading them afterwards touches nothing.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate

from sqlalchemy import Label, LargeBinary, Text, cast, func, literal, select, tuple_, type_coerce
from sqlalchemy.exc import IntegrityError

from gateway.database import deliveries, jobs
from gateway.database.admission import queue_positions
from gateway.database.arrivals import Arrivals
from gateway.database.engine import Database, Rows
from gateway.database.models import DeliveryRow, Job, UtcDateTime
from gateway.database.quota import JobQuota
from gateway.database.records import (
    Cursor,
    DeliveryRecord,
    IdempotencyConflict,
    InsertedJob,
    JobFinished,
    JobMissing,
    JobPage,
    JobRecord,
    LiveState,
    NewJob,
    QuotaExceeded,
)
from gateway.endings import Ending, end_job
from gateway.links import Links

DOCUMENTS_AT_ONCE = 4  # one of a thousand long links takes some 40 MiB on its way from the row to the answer
PAGE_BYTES = 4 << 20  # of the text that a page of the listing is made of: as much as one job may have
_SHOWN = [type_coerce(column, Text) for column in (Job.request, Job.metadata_, Job.images, Job.warnings, Job.artifacts, Job.report)]
_INSERT_TRIES = 3  # the winner of an idempotency key may be deleted between our insert and our look at it


def _random_id() -> str:
    return str(uuid.uuid4())


class JobRepository:
    """Every query of the HTTP side. `new_id` makes ids of replays; `quota` is held by everything that makes a job."""

    def __init__(self, database: Database, links: Links, new_id: Callable[[], str] = _random_id, quota: JobQuota | None = None) -> None:
        self._database = database
        self._quota = quota or JobQuota()
        self._arrivals = Arrivals(database, self._quota)
        self._uploads_turn = asyncio.Lock()
        self._documents = asyncio.Semaphore(DOCUMENTS_AT_ONCE)
        self._links = links
        self._new_id = new_id

    async def now(self) -> datetime:
        """The database's time, for checking links."""
        async with self._database.read() as rows:
            return rows.now

    async def check_quota(self, tenant: str, idempotency_key: str | None) -> None:
        """A cheap refusal, before a body is read; what makes the job looks again. Raises QuotaExceeded, but not for a repeated request."""
        if self._quota.limits(tenant):
            async with self._database.read() as rows:
                await self._quota.check(rows, tenant, idempotency_key)

    async def insert_job(self, new: NewJob) -> InsertedJob:
        """Job, steps and the first outbox row, in one transaction. Raises IdempotencyConflict and QuotaExceeded.

        Where the idempotency key already names a job of the tenant with the same body, that job is returned.
        """
        for _ in range(_INSERT_TRIES):
            if await self._arrivals.insert(new):
                return InsertedJob(new.id, "queued", created=True)
            if (winner := await self._winner(new)) is not None:
                return winner
        raise IdempotencyConflict

    async def begin_upload(self, tenant: str, job_id: str, idempotency_key: str | None = None) -> None:
        """A hidden row, before the first photo is stored: should we die, its photos are purged after an hour.

        Raises QuotaExceeded, but not for a repeated request.
        """
        async with self._making_a_job_of(tenant) as rows:
            await self._quota.check(rows, tenant, idempotency_key)
            jobs.add_hidden_job(rows, tenant, job_id)

    async def release_upload(self, new: NewJob) -> InsertedJob:
        """All photos are stored: the hidden row `new.id` becomes a queued job with its outbox row.

        Raises IdempotencyConflict, QuotaExceeded, and JobMissing when the row was purged. Where the idempotency key names an earlier
        job, that one is returned, or the conflict raised, and the upload is purged.
        """
        for _ in range(_INSERT_TRIES):
            winner = await self._winner(new, purge=True)
            if winner is not None:
                return winner
            try:
                async with self._making_a_job_of(new.tenant) as rows:
                    await self._quota.check_release(rows, new.tenant)
                    await jobs.release_hidden_job(rows, new)
                return InsertedJob(new.id, "queued", created=True)
            except IntegrityError:
                if new.idempotency_key is None:
                    raise
            except QuotaExceeded:
                if (winner := await self._winner(new, purge=True)) is None:
                    raise
                return winner
        raise IdempotencyConflict

    async def abandon_upload(self, tenant: str, job_id: str) -> None:
        """The upload failed: its row goes now, its photos are purged. No error when it is gone or released."""
        async with self._database.write() as rows:
            job = await jobs.lock_job(rows, job_id)
            if job is not None and job.tenant == tenant and job.status == jobs.UPLOADING:
                await jobs.remove_job(rows, job_id)

    async def get_job(self, tenant: str, job_id: str) -> JobRecord | None:
        """The whole job with its steps; None when the tenant has none by that id, however it is spelt.

        Few are read at once. Whoever awaits nothing before the record has become its document has few in memory, too.
        """
        async with self._documents, self._database.read() as rows:
            job = await jobs.visible_job(rows, tenant, job_id, jobs.WHOLE)
            return None if job is None else (await _with_steps(rows, [job]))[0]

    async def get_files(self, tenant: str | None, job_id: str) -> Job | None:
        """What artifacts need of the job, and nothing else. `tenant` None: whoever owns it, only for a link that was verified."""
        async with self._database.read() as rows:
            return await jobs.visible_job(rows, tenant, job_id, jobs.FILES)

    async def list_jobs(self, tenant: str, status: str | None = None, limit: int = 20, cursor: str | None = None) -> JobPage:
        """A page of the tenant's jobs, newest first. Raises ValueError for a cursor that is none of ours.

        It ends before `limit` where its jobs are large: at PAGE_BYTES, or with its first job. Few are read at once, as in get_job.
        """
        where = [Job.tenant == tenant, Job.status == status if status else Job.status != jobs.UPLOADING]
        if cursor is not None:
            after = Cursor.decode(cursor)
            where.append(tuple_(Job.created_at, Job.id) < tuple_(literal(after.created_at, UtcDateTime), literal(after.job_id)))
        order = (Job.created_at.desc(), Job.id.desc())
        async with self._documents, self._database.read() as rows:
            sizes = select(Job.id, Job.created_at, _size(rows)).where(*where).order_by(*order).limit(limit + 1)
            found = (await rows.session.execute(sizes)).all()
            page = found[: _fitting([row.size for row in found[:limit]])]
            whole = select(Job).options(*jobs.WHOLE).where(*where, Job.id.in_([row.id for row in page])).order_by(*order)
            records = await _with_steps(rows, list(await rows.session.scalars(whole))) if page else []
        more = len(found) > len(page)
        return JobPage(tuple(records), Cursor(page[-1].created_at, page[-1].id).encode() if more else None)

    async def cancel_job(self, tenant: str, job_id: str) -> None:
        """Ends the job as cancelled: row, stop and webhook in one transaction. Raises JobMissing, or JobFinished when it had ended."""
        async with self._database.write() as rows:
            job = await _locked(rows, tenant, job_id)
            if not await end_job(rows, job, await jobs.steps_of(rows, job.id), Ending("cancelled"), self._links):
                raise JobFinished

    async def delete_job(self, tenant: str, job_id: str) -> None:
        """Removes the row and what the relay had not sent; its artifacts are purged now and again in a day. Raises JobMissing."""
        async with self._database.write() as rows:
            job = await _locked(rows, tenant, job_id)
            await jobs.remove_job(rows, job.id)

    async def deliveries_of(self, tenant: str, job_id: str) -> list[DeliveryRecord]:
        """The job's webhooks, oldest first, each with the calls that ended. Raises JobMissing."""
        async with self._database.read() as rows:
            job = await jobs.visible_job(rows, tenant, job_id)
            if job is None:
                raise JobMissing
            return await deliveries.with_attempts(rows, job_id)

    async def replay(self, tenant: str, job_id: str, delivery_id: str) -> None:
        """One more call of a delivery, now, whatever its status. Raises JobMissing when tenant, job and delivery do not belong together."""
        async with self._database.write() as rows:
            job = await _locked(rows, tenant, job_id)
            delivery = await rows.session.get(DeliveryRow, delivery_id) if jobs.is_id(delivery_id) else None
            if delivery is None or delivery.job_id != job.id:
                raise JobMissing
            rows.to_outbox(job.id, "replay", {"delivery_id": delivery.id, "replay": self._new_id()})

    async def versions_since(self, seen: Mapping[str, int]) -> dict[str, LiveState | None]:
        """What changed among watched jobs (id -> version last seen), in one query; None for a job that is gone."""
        columns = (Job.id, Job.version, Job.status, Job.stage, Job.progress, Job.message)
        async with self._database.read() as rows:
            found = await rows.session.execute(select(*columns).where(Job.id.in_(seen.keys()), Job.status != jobs.UPLOADING))
            states = {row.id: LiveState(*row) for row in found}
        changed: dict[str, LiveState | None] = {job_id: None for job_id in seen if job_id not in states}
        return changed | {job_id: state for job_id, state in states.items() if state.version > seen[job_id]}

    async def queue_position(self, job_id: str) -> int | None:
        """The job's place in the order of admission, from 1; None unless it is queued."""
        async with self._database.read() as rows:
            job = await rows.session.get(Job, job_id)
            return (await queue_positions(rows, [job] if job else [])).get(job_id)

    @contextlib.asynccontextmanager
    async def _making_a_job_of(self, tenant: str) -> AsyncIterator[Rows]:
        """A transaction that holds the tenant's quota, if it has one; those of one process wait for the lock with one connection."""
        limited = self._quota.limits(tenant)
        async with self._uploads_turn if limited else contextlib.nullcontext(), self._database.write() as rows:
            if limited:
                await self._quota.hold(rows, [tenant])
            yield rows

    async def _winner(self, new: NewJob, purge: bool = False) -> InsertedJob | None:
        """The earlier job of this idempotency key, if any; `purge` removes the upload that lost against it."""
        if new.idempotency_key is None:
            return None
        async with self._database.read() as rows:
            winner = await jobs.job_of_key(rows, new.tenant, new.idempotency_key)
        if winner is None or winner.id == new.id:
            return None
        if purge:
            await self.abandon_upload(new.tenant, new.id)
        if winner.body_sha256 != new.body_sha256:
            raise IdempotencyConflict
        return InsertedJob(winner.id, winner.status, created=False)


async def _locked(rows: Rows, tenant: str, job_id: str) -> Job:
    """The tenant's job, locked until the transaction ends."""
    job = await jobs.lock_job(rows, job_id) if jobs.is_id(job_id) else None
    if job is None or job.tenant != tenant or job.status == jobs.UPLOADING:
        raise JobMissing
    return job


def _size(rows: Rows) -> Label[int]:
    """Bytes of the text that a job's document is made of; PostgreSQL knows them without unpacking it."""
    if rows.session.get_bind().dialect.name == "postgresql":
        sizes = [func.octet_length(column) for column in _SHOWN]
    else:
        sizes = [func.length(cast(column, LargeBinary)) for column in _SHOWN]
    return sum((func.coalesce(size, 0) for size in sizes), literal(0)).label("size")


def _fitting(sizes: Sequence[int]) -> int:
    """How many from the start make a page: the first in any case."""
    return max(sum(total <= PAGE_BYTES for total in accumulate(sizes)), min(1, len(sizes)))


async def _with_steps(rows: Rows, found: Sequence[Job]) -> list[JobRecord]:
    steps = await jobs.steps_by_job(rows, [job.id for job in found])
    positions = await queue_positions(rows, found)
    return [JobRecord(job, tuple(steps.get(job.id, ())), positions.get(job.id)) for job in found]
