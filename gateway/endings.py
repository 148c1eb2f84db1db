"""How a job ends: one function for the tracker, for cancel and for a restart, so that a job ends once and says so once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from gateway.database import jobs
from gateway.database.engine import Rows
from gateway.database.models import Job, StepRow
from gateway.database.records import UNFINISHED
from gateway.links import Links
from gateway.webhook_bodies import add_webhook
from shared.contracts.manifest import StepError
from shared.errors import CODES

TIDIED_AFTER = timedelta(hours=1)  # a part that is still being made elsewhere reads those of the round before


@dataclass(frozen=True)
class Ending:
    """What became of a job. `error` for failed, `artifacts` and `report` for completed."""

    status: str
    error: dict[str, Any] | None = None
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)


def failed(code: str, step: str | None, message: str = "") -> Ending:
    """The ending of a job that failed with a code of ours; an unknown code is INTERNAL."""
    code = code if code in CODES else "INTERNAL"
    info = CODES[code]
    # What an internal error says of itself is for our logs.
    sentence = message if message and code != "INTERNAL" else info.sentence
    return Ending("failed", {"code": code, "message": sentence, "stage": step, "hint": info.hint, "retryable": info.retryable})


def failed_with(error: StepError, step: str) -> Ending:
    """The ending of a job whose step committed an error."""
    return Ending(
        "failed",
        {"code": error.code, "message": error.message, "stage": step, "hint": error.hint, "retryable": error.retryable},
    )


async def end_job(rows: Rows, job: Job, steps: Sequence[StepRow], ending: Ending, links: Links) -> bool:
    """Whether this ended the job: false when it had ended. The caller holds the row's lock.

    Freezes artifacts and the webhook's body, removes unsent messages of the job, has its work stopped and, later, what parts made removed.
    """
    if not await jobs.decide(rows, job.id, ending.status, UNFINISHED):
        return False
    job.status, job.finished_at, job.version = ending.status, rows.now, job.version + 1
    job.error, job.artifacts, job.report = ending.error, ending.artifacts, ending.report
    if ending.status == "completed":
        job.progress = 100.0
    _end_steps(steps, ending)
    await jobs.drop_unsent(rows, job.id, "publish")
    if ending.status != "completed":
        rows.to_outbox(job.id, "stop", {"reason": ending.status})
    await add_webhook(rows, job, f"job.{ending.status}", links)
    rows.to_outbox(job.id, "tidy", {}, due_at=rows.now + TIDIED_AFTER)
    rows.wakes.add("publish")  # a place in flight is free: the relay may let the next job in
    return True


def _end_steps(steps: Sequence[StepRow], ending: Ending) -> None:
    stage = ending.error["stage"] if ending.error else None
    for step in steps:
        if ending.status == "completed":
            step.status, step.fraction = "completed", 1.0
        elif step.name == stage:
            step.status = "failed"
        elif step.status == "processing" or (step.status == "pending" and ending.status == "cancelled"):
            step.status = "cancelled"
