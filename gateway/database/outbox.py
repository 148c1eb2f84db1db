"""The outbox: what rows decided and the relay has yet to carry out. Functions over one transaction.

A job's rows are worked one after the other, `stop` before all others and `tidy` after them; a lease keeps the job to one replica. No
transaction is open while a row is worked.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Select, and_, bindparam, case, delete, exists, or_, select, update
from sqlalchemy.orm import aliased

from gateway.database.engine import Rows
from gateway.database.jobs import note_news
from gateway.database.models import Job, OutboxRow, UtcDateTime

KEPT = timedelta(days=1)  # how long sent rows can be looked at


@dataclass(frozen=True)
class Claim:
    """A row to carry out."""

    id: int
    job_id: str
    kind: str
    payload: dict[str, Any]


async def claim(rows: Rows, owner: str, kinds: Collection[str], limit: int, lease: timedelta) -> list[Claim]:
    """The first due row of each of up to `limit` jobs that no replica works on, leased to `owner`."""
    found = list(await rows.session.scalars(_HEADS, {"now": rows.now, "kinds": list(kinds), "most": limit}))
    if not found:
        return []
    free = await _lockable(rows, {row.job_id for row in found})
    take = [row.id for row in found if row.job_id in free]
    if not take:
        return []
    unleased = or_(OutboxRow.lease_until.is_(None), OutboxRow.lease_until <= rows.now)
    query = (
        update(OutboxRow)
        .where(OutboxRow.id.in_(take), OutboxRow.sent_at.is_(None), unleased)
        .values(lease_owner=owner, lease_until=rows.now + lease)
        .returning(OutboxRow.id)
    )
    leased = set(await rows.session.scalars(query, execution_options={"synchronize_session": False}))
    return [Claim(row.id, row.job_id, row.kind, row.payload) for row in found if row.id in leased]


def _turn(kind: ColumnElement[str] | Any) -> ColumnElement[int]:
    return case((kind == "stop", 0), (kind == "tidy", 2), else_=1)


def _heads() -> Select[OutboxRow]:
    """Parameters: `now`, `kinds`, `most`."""
    now: BindParameter[datetime] = bindparam("now", type_=UtcDateTime())
    other = aliased(OutboxRow)
    unsent = and_(other.job_id == OutboxRow.job_id, other.sent_at.is_(None))
    mine, theirs = _turn(OutboxRow.kind), _turn(other.kind)
    before = exists().where(unsent, or_(theirs < mine, and_(theirs == mine, other.id < OutboxRow.id)))
    worked_on = exists().where(unsent, other.lease_until > now)
    due = and_(OutboxRow.sent_at.is_(None), OutboxRow.due_at <= now, OutboxRow.kind.in_(bindparam("kinds", expanding=True)))
    return select(OutboxRow).where(due, ~before, ~worked_on).order_by(OutboxRow.due_at, OutboxRow.id).limit(bindparam("most"))


# Built once: every relay asks this many times a second.
_HEADS = _heads()
_THERE = select(Job.id).where(Job.id.in_(bindparam("job_ids", expanding=True)))
_FREE = _THERE.order_by(Job.id).with_for_update(skip_locked=True)


async def _lockable(rows: Rows, job_ids: Collection[str]) -> set[str]:
    """Jobs whose rows nobody changes now, locked; and those that are gone, of which only purges are left."""
    asked = {"job_ids": sorted(job_ids)}
    locked = set(await rows.session.scalars(_FREE, asked))
    there = set(await rows.session.scalars(_THERE, asked))
    return locked | (set(job_ids) - there)


async def mark_sent(rows: Rows, claims: Sequence[Claim]) -> None:
    """These were carried out. Rows that were removed meanwhile are no error."""
    if published := [claimed.job_id for claimed in claims if claimed.kind == "publish"]:
        await note_news(rows, published)
    query = update(OutboxRow).where(OutboxRow.id.in_([claimed.id for claimed in claims]))
    await rows.session.execute(query.values(sent_at=rows.now, lease_until=None))


async def release(rows: Rows, claims: Sequence[Claim], delay: timedelta = timedelta(0)) -> None:
    """These were not carried out: anybody may try, after `delay`."""
    query = update(OutboxRow).where(OutboxRow.id.in_([claimed.id for claimed in claims]), OutboxRow.sent_at.is_(None))
    await rows.session.execute(query.values(due_at=rows.now + delay, lease_until=None))


async def clear_leases(rows: Rows) -> None:
    """Nobody works on anything: a single process starts."""
    await rows.session.execute(update(OutboxRow).where(OutboxRow.sent_at.is_(None)).values(lease_until=None))


async def forget_sent(rows: Rows) -> None:
    """Removes rows that were carried out long ago."""
    await rows.session.execute(delete(OutboxRow).where(OutboxRow.sent_at < rows.now - KEPT))


async def has_pending(rows: Rows, job_id: str) -> bool:
    """Whether a row of the job is still to be carried out."""
    query = select(OutboxRow.id).where(OutboxRow.job_id == job_id, OutboxRow.sent_at.is_(None)).limit(1)
    return (await rows.session.scalars(query)).first() is not None
