"""The order in which waiting jobs are let in: high priority first, then round-robin over tenants.

A tenant's n-th waiting job has turn (jobs it has in flight) + n; the lowest turn goes next, of equal turns the tenant first by
name. So a tenant with a thousand jobs waits for one with a single job, and nobody needs to remember whose turn it was. The order
follows from counts per tenant: ten thousand waiting jobs are counted in an index, never sorted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from heapq import merge
from itertools import islice

from sqlalchemy import ColumnElement, Select, bindparam, func, literal, select, text, tuple_, union_all, update
from sqlalchemy.orm import load_only

from gateway.database.engine import Rows
from gateway.database.models import IN_FLIGHT, WAITING, Job, OutboxRow, UtcDateTime

_DOOR = 0x646F6F72  # "door"
_TIMES = load_only(Job.last_news_at, Job.admitted_at, raiseload=True)


@dataclass(frozen=True)
class Line:
    """Who waits: jobs in flight by tenant, waiting jobs by (tenant, priority)."""

    loads: Counter[str]
    waiting: Counter[tuple[str, int]]

    def _higher(self, tenant: str, priority: int) -> int:
        return sum(count for (each, p), count in self.waiting.items() if each == tenant and p > priority)

    def place_of(self, tenant: str, priority: int, before: int) -> int:
        """The place (from 1) of the job before which `before` jobs of its tenant and priority wait."""
        turn = self.loads[tenant] + self._higher(tenant, priority) + before + 1
        ahead = sum(count for (_, p), count in self.waiting.items() if p > priority)
        for (each, p), count in self.waiting.items():
            if p == priority:
                last_turn = turn if each < tenant else turn - 1
                ahead += min(count, max(0, last_turn - self.loads[each] - self._higher(each, p)))
        return ahead + 1

    def next_in(self, in_flight: int, limit: int) -> list[tuple[str, int]]:
        """(tenant, priority) of whom to let in next, in order; who they are is a matter of age."""
        chosen: list[tuple[str, int]] = []
        for priority in sorted({p for _, p in self.waiting}, reverse=True):
            turns = [self._turns(tenant, priority, in_flight) for tenant, p in self.waiting if p == priority]
            chosen += [(tenant, priority) for _, tenant in islice(merge(*turns), limit - len(chosen))]
        return chosen

    def _turns(self, tenant: str, priority: int, in_flight: int) -> list[tuple[int, str]]:
        first = self.loads[tenant] + self._higher(tenant, priority) + 1
        last = min(first + self.waiting[tenant, priority] - 1, in_flight)
        return [(turn, tenant) for turn in range(first, last + 1)]


_LOADS = select(Job.tenant, func.count()).where(IN_FLIGHT).group_by(Job.tenant)
_WAITING = select(Job.tenant, Job.priority, func.count()).where(WAITING).group_by(Job.tenant, Job.priority)
_WAITING_OF = _WAITING.where(Job.tenant.in_(bindparam("tenants", expanding=True)))


def _waiting_tenants() -> Select[str]:
    """Who has a job waiting, found by one look at the index for each: their jobs are not counted.

    Not by `min`, for which a planner that thinks nobody waits reads all of them.
    """
    first = select(Job.tenant).where(WAITING).order_by(Job.tenant).limit(1).scalar_subquery()
    found = select(first.label("tenant")).cte("found", recursive=True)
    following = select(Job.tenant).where(WAITING, Job.tenant > found.c.tenant).order_by(Job.tenant).limit(1).scalar_subquery()
    every = found.union_all(select(following).where(found.c.tenant.is_not(None)))
    return select(every.c.tenant).where(every.c.tenant.is_not(None))


_TENANTS = _waiting_tenants()


async def the_line(rows: Rows) -> Line:
    """Who waits now. Where nobody does, loads are not counted."""
    waiting = Counter({(tenant, priority): n for tenant, priority, n in await rows.session.execute(_WAITING)})
    loads = {row[0]: row[1] for row in await rows.session.execute(_LOADS)} if waiting else {}
    return Line(Counter(loads), waiting)


async def the_front(rows: Rows, in_flight: int) -> Line:
    """Who waits now and may be let in: tenants with `in_flight` jobs in the stages are left out, and what they have waiting is not counted.

    Most rounds of a busy relay find every tenant at its limit: then ten thousand waiting jobs cost what one does.
    """
    tenants = list(await rows.session.scalars(_TENANTS))
    loads = Counter({row[0]: row[1] for row in await rows.session.execute(_LOADS)} if tenants else {})
    may = [tenant for tenant in tenants if loads[tenant] < in_flight]
    found = await rows.session.execute(_WAITING_OF, {"tenants": may}) if may else ()
    return Line(loads, Counter({(tenant, priority): n for tenant, priority, n in found}))


async def admit(rows: Rows, in_flight: int, limit: int) -> int:
    """Lets the next jobs in, at most `in_flight` unfinished ones of each tenant at a time: their first messages are due now.

    Returns how many. One replica does this at a time, or counts would be stale before they are acted on; others let nobody in.
    """
    if not await _take_the_door(rows):
        return 0
    places = (await the_front(rows, in_flight)).next_in(in_flight, limit)
    chosen = await _oldest(rows, places)
    if not chosen:
        return 0
    locking = select(Job).options(_TIMES).where(Job.id.in_(chosen), WAITING).order_by(Job.id).with_for_update()
    locked = await rows.session.scalars(locking)
    admitted = sorted(locked, key=lambda job: chosen.index(job.id))
    for place, job in enumerate(admitted):
        job.last_news_at = rows.now
        job.admitted_at = rows.now - timedelta(microseconds=len(admitted) - place)  # keeps their order
    first = (OutboxRow.job_id.in_([job.id for job in admitted]), OutboxRow.kind == "publish", OutboxRow.sent_at.is_(None))
    await rows.session.execute(update(OutboxRow).where(*first).values(due_at=rows.now))
    return len(admitted)


async def _take_the_door(rows: Rows) -> bool:
    """Whether no other replica lets jobs in now; held until the transaction ends. SQLite has one writer anyway."""
    if rows.session.get_bind().dialect.name != "postgresql":
        return True
    return bool(await rows.session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _DOOR}))


async def _oldest(rows: Rows, places: Sequence[tuple[str, int]]) -> list[str]:
    """For each place the oldest job of that tenant and priority that has none yet."""
    by_group: dict[tuple[str, int], list[str]] = {}
    for (tenant, priority), count in Counter(places).items():
        query = select(Job.id).where(WAITING, Job.tenant == tenant, Job.priority == priority).order_by(Job.created_at, Job.id).limit(count)
        by_group[tenant, priority] = list(await rows.session.scalars(query))
    return [by_group[place].pop(0) for place in places if by_group[place]]


async def queue_positions(rows: Rows, jobs: Sequence[Job]) -> dict[str, int]:
    """Places from 1 in the order of admission, for those of the jobs that are queued; jobs let in but not begun come first."""
    queued = [job for job in jobs if job.status == "queued"]
    if not queued:
        return {}
    before = await _counts(rows, [_those_before(job) for job in queued] + [_entered()])
    line, entered = await the_line(rows), before[-1]
    return {
        job.id: count + 1 if job.admitted_at is not None else entered + line.place_of(job.tenant, job.priority, count)
        for job, count in zip(queued, before, strict=False)
    }


async def _counts(rows: Rows, queries: Sequence[Select[int]]) -> list[int]:
    numbered = [query.add_columns(literal(number).label("number")) for number, query in enumerate(queries)]
    found = {number: count for count, number in await rows.session.execute(union_all(*numbered))}
    return [int(found[number]) for number in range(len(queries))]


def _entered() -> Select[int]:
    return select(func.count()).select_from(Job).where(IN_FLIGHT, Job.status == "queued")


def _those_before(job: Job) -> Select[int]:
    """How many are before it: of those let in, or of its tenant and priority."""
    if job.admitted_at is not None:
        return _entered().where(_is_before(Job.admitted_at, job.admitted_at, job.id))
    mine = (WAITING, Job.tenant == job.tenant, Job.priority == job.priority)
    return select(func.count()).select_from(Job).where(*mine, _is_before(Job.created_at, job.created_at, job.id))


def _is_before(column: object, moment: object, job_id: str) -> ColumnElement[bool]:
    return tuple_(column, Job.id) < tuple_(literal(moment, UtcDateTime), literal(job_id))  # type: ignore[arg-type,no-any-return]
