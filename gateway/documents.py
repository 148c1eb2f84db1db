"""Rows as callers see them: plain dictionaries.

Metadata is the caller's own and may hold what no model cares for (huge integers), so nothing here goes through a model.
"""

from typing import Any

from gateway.database.models import Job, StepRow
from gateway.database.records import DeliveryRecord, JobRecord
from gateway.links import Links, rfc3339


def priority_name(priority: int) -> str:
    """A row's priority as callers say it."""
    return "high" if priority else "normal"


def job_document(record: JobRecord, links: Links) -> dict[str, Any]:
    """A job (schemas.JobDocument)."""
    job = record.job
    return {
        "job_id": job.id,
        "status": job.status,
        "stage": job.stage,
        "progress": round(job.progress, 2),
        "created_at": rfc3339(job.created_at),
        "started_at": rfc3339(job.started_at) if job.started_at else None,
        "finished_at": rfc3339(job.finished_at) if job.finished_at else None,
        "preset": job.preset,
        "pipeline": job.pipeline,
        "priority": priority_name(job.priority),
        "parent": job.request.get("parent"),
        "metadata": job.metadata_,
        "queue_position": record.queue_position,
        "stages": [_step_document(step) for step in record.steps],
        "images": _image_documents(job),
        "warnings": job.warnings,
        "error": job.error,
        "artifacts": links.artifacts_of(job),
        "result_url": links.result_url_of(job),
        "report": job.report,
    }


def _image_documents(job: Job) -> list[dict[str, Any]]:
    """Every photo with its URL; what came out of an archive or a video has none, as uploads have."""
    urls = {asked["name"]: asked["url"] for asked in job.request["images"]}
    return [{"name": image["name"], "url": urls.get(image["name"])} | image for image in job.images]


def _step_document(step: StepRow) -> dict[str, Any]:
    return {
        "name": step.name,
        "status": step.status,
        "progress": round(100 * step.fraction, 2),
        "seconds": round(step.seconds, 3),
        "attempts": step.attempts,
    }


def delivery_document(record: DeliveryRecord) -> dict[str, Any]:
    """One webhook and its calls (schemas.WebhookDelivery)."""
    attempts = [{"at": rfc3339(attempt.at), "status_code": attempt.status_code, "error": attempt.error} for attempt in record.attempts]
    return {"id": record.delivery.id, "type": record.delivery.type, "status": record.delivery.status, "attempts": attempts}
