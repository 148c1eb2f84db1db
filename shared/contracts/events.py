"""What workers tell on `events`. Events have no order and may come twice; the tracker folds them into rows."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, TypeAdapter

from shared.contracts.base import SCHEMA_VERSION, Contract, Id


class _StepEvent(Contract):
    schema_version: int = SCHEMA_VERSION
    job_id: Id
    step: str
    position: int
    attempt: int


class StageStarted(_StepEvent):
    """A worker took the step."""

    type: Literal["stage.started"] = "stage.started"


class StageProgress(_StepEvent):
    """The step is `fraction` (0 to 1) done."""

    type: Literal["stage.progress"] = "stage.progress"
    fraction: FiniteFloat
    message: str = ""


class StageCompleted(_StepEvent):
    """The step is committed; `manifest` is the key of the winning attempt's manifest."""

    type: Literal["stage.completed"] = "stage.completed"
    manifest: str


class StageFailed(_StepEvent):
    """The step failed for good; `manifest` is the key of the attempt's manifest, which has the error."""

    type: Literal["stage.failed"] = "stage.failed"
    manifest: str


class WebhookAttempted(Contract):
    """One call of a delivery ended. `outcome`: delivered, failed (the schedule goes on), parked (it does not)."""

    schema_version: int = SCHEMA_VERSION
    type: Literal["webhook.attempted"] = "webhook.attempted"
    job_id: Id
    delivery_id: Id
    attempt_id: Id  # random: a repeated call is a further attempt
    at: datetime
    status_code: int | None = None
    error: str | None = None
    outcome: Literal["delivered", "failed", "parked"]
    body_damaged: bool = False  # nothing was sent: the stored body is not the one that was decided on, and must be stored again


Event = Annotated[StageStarted | StageProgress | StageCompleted | StageFailed | WebhookAttempted, Field(discriminator="type")]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def event_key(event: Event) -> str:
    """Routing key on `events`: `stage.sfm.completed`, `webhook.attempted`."""
    if isinstance(event, WebhookAttempted):
        return event.type
    return event.type.replace("stage.", f"stage.{event.step}.", 1)
