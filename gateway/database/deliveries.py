"""Rows of webhooks and of their calls. Functions over one transaction."""

from collections import defaultdict

from sqlalchemy import and_, case, select

from gateway.database.engine import Rows
from gateway.database.models import DeliveryAttemptRow, DeliveryRow, StepRow
from gateway.database.records import DeliveryRecord
from shared.contracts.events import WebhookAttempted

_MAX_ERROR = 500


async def with_attempts(rows: Rows, job_id: str) -> list[DeliveryRecord]:
    """The webhooks of a job, oldest first; those of one transaction in the order of what they tell."""
    told = case((DeliveryRow.type == "job.started", 0), (DeliveryRow.type == "stage.completed", 1), else_=2)
    step = and_(StepRow.job_id == DeliveryRow.job_id, StepRow.name == DeliveryRow.step)
    deliveries = select(DeliveryRow).outerjoin(StepRow, step).where(DeliveryRow.job_id == job_id)
    deliveries = deliveries.order_by(DeliveryRow.created_at, told, StepRow.position, DeliveryRow.id)
    attempts = (
        select(DeliveryAttemptRow)
        .join(DeliveryRow, DeliveryRow.id == DeliveryAttemptRow.delivery_id)
        .where(DeliveryRow.job_id == job_id)
        .order_by(DeliveryAttemptRow.at, DeliveryAttemptRow.id)
    )
    calls: defaultdict[str, list[DeliveryAttemptRow]] = defaultdict(list)
    for attempt in await rows.session.scalars(attempts):
        calls[attempt.delivery_id].append(attempt)
    return [DeliveryRecord(row, tuple(calls[row.id])) for row in await rows.session.scalars(deliveries)]


async def record_attempt(rows: Rows, event: WebhookAttempted) -> None:
    """One call ended. Told twice, it is listed once; a delivery that is gone is no error. A damaged body is stored again from its row."""
    delivery = await rows.session.get(DeliveryRow, event.delivery_id)
    if delivery is None:
        return
    if await rows.session.get(DeliveryAttemptRow, event.attempt_id) is None:
        error = event.error and event.error.replace("\0", "")[:_MAX_ERROR]
        attempt = DeliveryAttemptRow(id=event.attempt_id, delivery_id=delivery.id, at=event.at, status_code=event.status_code, error=error)
        rows.session.add(attempt)
        if event.body_damaged:
            rows.to_outbox(delivery.job_id, "body", {"delivery_id": delivery.id})
    if event.outcome == "delivered":
        delivery.status = "delivered"
    elif event.outcome == "parked":
        _park(delivery)


async def park(rows: Rows, delivery_id: str) -> None:
    """The delivery was given up; one that arrived stays delivered."""
    delivery = await rows.session.get(DeliveryRow, delivery_id)
    if delivery is not None:
        _park(delivery)


def _park(delivery: DeliveryRow) -> None:
    if delivery.status != "delivered":
        delivery.status = "parked"
