"""What goes into the repositories and comes out of them."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gateway.database.models import DeliveryAttemptRow, DeliveryRow, Job, StepRow
from shared.contracts.request import JobRequest
from shared.contracts.slip import RoutingSlip
from shared.errors import MeshworkError

ENDINGS = ("job.completed", "job.failed", "job.cancelled")
UNFINISHED = ("queued", "processing")
FINISHED = ("completed", "failed", "cancelled")


class IdempotencyConflict(MeshworkError):
    """The idempotency key was used with another body."""


class JobFinished(MeshworkError):
    """The job has ended: there is nothing to cancel."""


class JobMissing(MeshworkError):
    """No such job of this tenant."""


class QuotaExceeded(MeshworkError):
    """The tenant has as many unfinished jobs as it may have."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"At most {limit} unfinished jobs at a time.")


@dataclass(frozen=True)
class NewJob:
    """A job as it is asked for. `request.job_id` is the job's id (a random uuid4), `request.images` its photos."""

    tenant: str
    slip: RoutingSlip
    request: JobRequest
    body_sha256: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    callback_url: str | None = None
    callback_events: Sequence[str] = ENDINGS
    idempotency_key: str | None = None
    priority: int = 0
    warnings: Sequence[Mapping[str, str]] = ()  # {"code", "message", "hint"} known at the door

    @property
    def id(self) -> str:
        """The job's id."""
        return self.request.job_id


@dataclass(frozen=True)
class InsertedJob:
    """What an insert came to. `created` is False when the idempotency key named an earlier job with the same body."""

    job_id: str
    status: str
    created: bool


@dataclass(frozen=True)
class JobRecord:
    """A job and its steps in order, detached from the database. `queue_position` counts from 1, None unless queued."""

    job: Job
    steps: tuple[StepRow, ...]
    queue_position: int | None = None


@dataclass(frozen=True)
class JobPage:
    """A page of a listing; `next_cursor` is None on the last one."""

    records: tuple[JobRecord, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class LiveState:
    """What live events are made of."""

    job_id: str
    version: int
    status: str
    stage: str | None
    progress: float
    message: str


@dataclass(frozen=True)
class DeliveryRecord:
    """One webhook and the calls of it that ended, oldest first."""

    delivery: DeliveryRow
    attempts: tuple[DeliveryAttemptRow, ...]


@dataclass(frozen=True)
class Cursor:
    """A position in the listing: the last job seen."""

    created_at: datetime
    job_id: str

    def encode(self) -> str:
        """Opaque to callers."""
        return base64.urlsafe_b64encode(f"{self.created_at.isoformat()} {self.job_id}".encode()).decode()

    @classmethod
    def decode(cls, cursor: str) -> "Cursor":
        """Raises ValueError for what is none of ours."""
        try:
            moment, _, job_id = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode().partition(" ")
            position = cls(datetime.fromisoformat(moment), job_id)
        except (ValueError, binascii.Error, UnicodeError) as error:
            raise ValueError("unknown cursor") from error
        if position.created_at.tzinfo is None or not job_id or position.encode() != cursor or "\0" in job_id:
            raise ValueError("unknown cursor")
        return position
