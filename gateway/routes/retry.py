"""A job once more, with other options: a new job that computes only what changed."""

import asyncio
import hashlib
import json
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from gateway.auth import Tenant
from gateway.database.models import Job
from gateway.database.records import FINISHED, IdempotencyConflict, InsertedJob, JobMissing, NewJob
from gateway.documents import priority_name
from gateway.door_json import parse_object, read_body, require_json
from gateway.parts import Parts, PartsOf
from gateway.problems import Problem, responses
from gateway.routes.jobs import find_job, no_such_job
from gateway.routes.reconstruct import LOCATION, IdempotencyKey, accepted, checked_key, json_body, new_job, photos_being_stored
from gateway.schemas import Accepted, RetryRequest
from shared.contracts.request import ImageSource, JobRequest
from shared.errors import ObjectMissing
from shared.storage import keys

router = APIRouter(prefix="/api/v1", tags=["new jobs"])

_CODES = ("NOT_FOUND", "JOB_NOT_FINISHED", "IDEMPOTENCY_CONFLICT", "VALIDATION_FAILED", "UNSAFE_URL", "PAYLOAD_TOO_LARGE", "QUOTA_EXCEEDED")


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    response_model=Accepted,
    responses={202: {"headers": LOCATION}, **responses(*_CODES, "UNSUPPORTED_MEDIA_TYPE")},
    openapi_extra=json_body(RetryRequest.model_json_schema(), required=False),
    summary="A job once more, with other options",
)
async def retry(job_id: str, request: Request, tenant: Tenant, parts: PartsOf, idempotency_key: IdempotencyKey = None) -> JSONResponse:
    """A new job with the photos of one that has ended, however it ended, and with everything that it was asked but what is given here.

    Steps whose stage, options and inputs are the same are taken over, not computed again. The job's `parent` is the earlier one.
    """
    key = checked_key(idempotency_key)
    require_json(request)
    body = await read_body(request, parts.settings.max_body_bytes)
    parent = (await find_job(parts, tenant, job_id)).job
    if parent.status not in FINISHED:
        raise Problem("JOB_NOT_FINISHED", hint="Wait for its end, or cancel it first.")
    await parts.jobs.check_quota(tenant, key)
    earlier = JobRequest.model_validate(parent.request)
    checked = parts.door.check_retry(parse_object(body or b"{}"), _asked(parent, earlier))
    said = hashlib.sha256(json.dumps([job_id, body.decode()]).encode()).hexdigest()
    new = new_job(tenant, parts.new_id(), checked, earlier.images, said, key, parent=job_id)
    try:
        if any(image.key for image in earlier.images):
            return accepted(await _insert_with_copies(new, parts))
        return accepted(await parts.jobs.insert_job(new))
    except IdempotencyConflict:
        raise Problem("IDEMPOTENCY_CONFLICT") from None
    except (JobMissing, ObjectMissing):
        raise no_such_job() from None  # deleted meanwhile


def _asked(job: Job, request: JobRequest) -> dict[str, Any]:
    """The fields of an UploadRequest that would ask for the same job."""
    return {
        "callback_url": job.callback_url,
        "callback_events": list(job.callback_events),
        "metadata": job.metadata_,
        "preset": job.preset,
        "pipeline": job.pipeline,
        "options": request.options,
        "outputs": list(request.outputs),
        "priority": priority_name(job.priority),
    }


async def _insert_with_copies(new: NewJob, parts: Parts) -> InsertedJob:
    """The job with photos of its own: the earlier job may be deleted. Raises ObjectMissing when it was already."""

    async def copied(index: int, image: ImageSource) -> ImageSource:
        if image.key is None:
            return image
        target = keys.image(new.id, index, image.name)
        async with parts.copies:
            await parts.store.copy(image.key, target)
        return image.model_copy(update={"key": target})

    async with photos_being_stored(parts, new.tenant, new.id, new.idempotency_key):
        copies = (copied(index, image) for index, image in enumerate(new.request.images))
        images = await asyncio.gather(*copies, return_exceptions=True)  # all of them: none may write after the job was given up
        for failure in (image for image in images if isinstance(image, BaseException)):
            raise failure
        own = replace(new, request=new.request.model_copy(update={"images": tuple(images)}))
        return await parts.jobs.release_upload(own)
