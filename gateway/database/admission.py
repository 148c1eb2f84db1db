"""The order in which waiting jobs are let in: high priority first, then round-robin over tenants.

A tenant's n-th waiting job has turn (jobs it has in flight) + n; the lowest turn goes next, so that a tenant with a
thousand jobs waits for one with a single job, and nobody needs to remember whose turn it was.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, Subquery, and_, func, select, union_all, update

from gateway.database.engine import Rows
from gateway.database.models import Job, OutboxRow
from gateway.database.records import UNFINISHED

_WAITING: ColumnElement[bool] = and_(Job.status == "queued", Job.admitted_at.is_(None))
_IN_FLIGHT: ColumnElement[bool] = and_(Job.status.in_(UNFINISHED), Job.admitted_at.is_not(None))


def waiting_jobs() -> Subquery:
    """Jobs not let in yet: id, turn (from 1), and place in the order (from 1)."""
    load = select(Job.tenant, func.count().label("jobs")).where(_IN_FLIGHT).group_by(Job.tenant).subquery()
    within = func.row_number().over(partition_by=Job.tenant, order_by=(Job.priority.desc(), Job.created_at, Job.id))
    turns = (
        select(Job.id, Job.priority, Job.created_at, (within + func.coalesce(load.c.jobs, 0)).label("turn"))
        .outerjoin(load, load.c.tenant == Job.tenant)
        .where(_WAITING)
        .subquery()
    )
    place = func.row_number().over(order_by=(turns.c.priority.desc(), turns.c.turn, turns.c.created_at, turns.c.id))
    return select(turns.c.id, turns.c.turn, place.label("place")).subquery()


async def admit(rows: Rows, in_flight: int, limit: int) -> int:
    """Lets the next jobs in, at most `in_flight` unfinished ones of each tenant at a time: their first messages are due now.

    Returns how many. Replicas that do this at once let each job in once.
    """
    waiting = waiting_jobs()
    query = select(waiting.c.id).where(waiting.c.turn <= in_flight).order_by(waiting.c.place).limit(limit)
    chosen = list(await rows.session.scalars(query))
    if not chosen:
        return 0
    locked = await rows.session.scalars(select(Job).where(Job.id.in_(chosen), _WAITING).order_by(Job.id).with_for_update())
    admitted = sorted(locked, key=lambda job: chosen.index(job.id))
    for place, job in enumerate(admitted):
        job.last_news_at = rows.now
        job.admitted_at = rows.now - timedelta(microseconds=len(admitted) - place)  # keeps their order
    first = (OutboxRow.job_id.in_([job.id for job in admitted]), OutboxRow.kind == "publish", OutboxRow.sent_at.is_(None))
    await rows.session.execute(update(OutboxRow).where(*first).values(due_at=rows.now))
    return len(admitted)


async def queue_positions(rows: Rows, job_ids: Sequence[str]) -> dict[str, int]:
    """Places from 1 in the order of admission, for those of the jobs that are queued; jobs let in but not begun come first."""
    if not job_ids:
        return {}
    entered = (
        select(Job.id, func.row_number().over(order_by=(Job.admitted_at, Job.id)).label("place"))
        .where(Job.status == "queued", Job.admitted_at.is_not(None))
        .subquery()
    )
    ahead = select(func.count()).select_from(entered).scalar_subquery()
    waiting = waiting_jobs()
    places = union_all(
        select(entered.c.id, entered.c.place.label("place")),
        select(waiting.c.id, (waiting.c.place + ahead).label("place")),
    ).subquery()
    found = await rows.session.execute(select(places.c.id, places.c.place).where(places.c.id.in_(job_ids)))
    return {row.id: int(row.place) for row in found}
