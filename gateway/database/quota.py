"""At most so many unfinished jobs of a tenant at a time, counted by the transaction that makes one more. Off by default."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence

from sqlalchemy import func, or_, select, text

from gateway.database import jobs
from gateway.database.engine import Rows
from gateway.database.models import Job
from gateway.database.records import UNFINISHED, NewJob, QuotaExceeded

_COUNTED = (jobs.UPLOADING, *UNFINISHED)


class JobQuota:
    """Counts rows, so that all replicas agree. `limit_of`: unfinished jobs of a tenant at a time; 0: no limit.

    Who makes a job holds the tenant's lock from the count to the commit, so that no two take the same last place. Of a tenant without a
    limit nothing is asked.
    """

    def __init__(self, limit_of: Callable[[str], int] = lambda _tenant: 0) -> None:
        self._limit_of = limit_of

    def limits(self, tenant: str) -> bool:
        """Whether the tenant has one."""
        return self._limit_of(tenant) != 0

    async def check(self, rows: Rows, tenant: str, idempotency_key: str | None) -> None:
        """Returns when the tenant may have one job more, or has the one of this key already. Raises QuotaExceeded."""
        limit = self._limit_of(tenant)
        full = await _is_full(rows, tenant, limit, _COUNTED)
        if full and (idempotency_key is None or await jobs.job_of_key(rows, tenant, idempotency_key) is None):
            raise QuotaExceeded(limit)

    async def check_release(self, rows: Rows, tenant: str) -> None:
        """The same for an upload that becomes a job: a repeated one was let in uncounted, and its first job may be gone."""
        limit = self._limit_of(tenant)
        if await _is_full(rows, tenant, limit, UNFINISHED):
            raise QuotaExceeded(limit)

    async def hold(self, rows: Rows, tenants: Collection[str]) -> None:
        """Until the transaction ends nobody else makes a job of these tenants. SQLite has one writer anyway."""
        if rows.session.get_bind().dialect.name != "postgresql":
            return
        for number in sorted(_lock_of(tenant) for tenant in tenants):  # one order: no deadlocks
            await rows.session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": number})

    async def sort_out(self, rows: Rows, news: Sequence[NewJob]) -> tuple[list[NewJob], dict[str, QuotaExceeded]]:
        """Those to be inserted, in their order, and by id those for which there is no place; holds the locks.

        In neither are those whose key, or id, is taken: they need no place.
        """
        limits = {tenant: limit for tenant in {new.tenant for new in news} if (limit := self._limit_of(tenant))}
        if not limits:
            return list(news), {}
        await self.hold(rows, limits)
        left_out: dict[str, QuotaExceeded | None] = {}
        for tenant, limit in limits.items():
            left_out |= await _left_out(rows, [new for new in news if new.tenant == tenant], limit)
        refused = {job_id: error for job_id, error in left_out.items() if error is not None}
        return [new for new in news if new.id not in left_out], refused


def _lock_of(tenant: str) -> int:
    """A number of PostgreSQL's advisory locks."""
    return int.from_bytes(hashlib.sha256(b"quota of " + tenant.encode()).digest()[:8], signed=True)


async def _unfinished(rows: Rows, tenant: str, limit: int, among: Sequence[str]) -> int:
    """How many jobs of these statuses the tenant has, counted up to `limit`."""
    some = select(Job.id).where(Job.tenant == tenant, Job.status.in_(among)).limit(limit).subquery()
    return await rows.session.scalar(select(func.count()).select_from(some)) or 0


async def _is_full(rows: Rows, tenant: str, limit: int, among: Sequence[str]) -> bool:
    return limit != 0 and await _unfinished(rows, tenant, limit, among) >= limit


async def _left_out(rows: Rows, arrivals: Sequence[NewJob], limit: int) -> Mapping[str, QuotaExceeded | None]:
    """By id those of one tenant that are not to be inserted: None where key or id is taken."""
    free = limit - await _unfinished(rows, arrivals[0].tenant, limit, _COUNTED)
    if free >= len(arrivals):
        return {}
    left_out: dict[str, QuotaExceeded | None] = dict.fromkeys(await _taken(rows, arrivals))
    places: set[str] = set()
    for new in arrivals:
        place = new.idempotency_key or new.id  # of one key one is made
        if new.id in left_out or place in places:
            continue
        if len(places) < free:
            places.add(place)
        else:
            left_out[new.id] = QuotaExceeded(limit)
    return left_out


async def _taken(rows: Rows, arrivals: Sequence[NewJob]) -> list[str]:
    """Ids of those whose key, or id, is taken."""
    keys = [new.idempotency_key for new in arrivals if new.idempotency_key is not None]
    ours = or_(Job.idempotency_key.in_(keys), Job.id.in_([new.id for new in arrivals]))
    found = (await rows.session.execute(select(Job.id, Job.idempotency_key).where(Job.tenant == arrivals[0].tenant, ours))).all()
    ids, taken = {row.id for row in found}, {row.idempotency_key for row in found} - {None}
    return [new.id for new in arrivals if new.id in ids or new.idempotency_key in taken]
