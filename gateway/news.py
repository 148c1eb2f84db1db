"""What comes in on the tracker's queue, read into facts: events of workers, and dead letters of workers or of the broker itself."""

from dataclasses import dataclass

from pydantic import ValidationError

from shared.contracts.events import EVENT, Event
from shared.contracts.messages import StageMessage, WebhookMessage
from shared.contracts.routing import (
    DEAD_EXCHANGE,
    HEADER_CODE,
    HEADER_JOB,
    HEADER_REASON,
    HEADER_STEP,
    WEBHOOKS_QUEUE,
)
from shared.errors import MeshworkError
from shared.ports import Delivery


class Unreadable(MeshworkError):
    """The tracker cannot read this message."""


@dataclass(frozen=True)
class StepDied:
    """A message of a stage was given up. `step` is a step's name, or a stage's where nobody could read which step it was."""

    job_id: str
    step: str
    code: str
    reason: str


@dataclass(frozen=True)
class DeliveryDied:
    """A message of the webhooks service was given up: its delivery is parked."""

    job_id: str
    delivery_id: str


Fact = Event | StepDied | DeliveryDied


def read_fact(delivery: Delivery) -> Fact | None:
    """The fact in a delivery; None where it changes nothing. Raises Unreadable."""
    try:
        if delivery.exchange != DEAD_EXCHANGE:
            return EVENT.validate_json(delivery.body)
        if delivery.routing_key.endswith(WEBHOOKS_QUEUE):
            return _dead_webhook(delivery)
        return _dead_step(delivery)
    except ValidationError as error:
        raise Unreadable(f"{error.error_count()} errors, the first: {error.errors()[0]['msg']}") from None


def _dead_step(delivery: Delivery) -> StepDied:
    message = _message(delivery)
    job_id = str(delivery.headers.get(HEADER_JOB) or (message.job_id if message else ""))
    if not job_id:
        raise Unreadable("a dead letter that names no job")
    step = delivery.headers.get(HEADER_STEP) or (message.step.name if message else delivery.routing_key.rsplit(".", 1)[-1])
    # Without our header the broker itself gave up: its delivery limit counts workers that were lost.
    code, reason = delivery.headers.get(HEADER_CODE, "WORKER_LOST"), delivery.headers.get(HEADER_REASON, "")
    return StepDied(job_id, str(step), str(code), str(reason))


def _message(delivery: Delivery) -> StageMessage | None:
    try:
        message = StageMessage.model_validate_json(delivery.body)
        return message if message.position in range(len(message.slip.steps)) else None
    except ValidationError:
        return None


def _dead_webhook(delivery: Delivery) -> DeliveryDied | None:
    message = WebhookMessage.model_validate_json(delivery.body)
    # A replay is one call beside the schedule: that it failed says nothing about the delivery.
    return None if message.replay else DeliveryDied(message.job_id, message.delivery_id)
