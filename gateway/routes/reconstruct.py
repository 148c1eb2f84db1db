"""New jobs: from links, and from uploads."""

import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse

from gateway.auth import Tenant
from gateway.database.records import IdempotencyConflict, InsertedJob, JobMissing, NewJob
from gateway.door import CheckedRequest
from gateway.door_json import parse_object, read_body, require_json
from gateway.door_multipart import IMAGES, REQUEST, ReceivedUpload, UploadLimits, boundary_of, receive_upload
from gateway.parts import Parts, PartsOf
from gateway.problems import Problem, field_problem, responses
from gateway.schemas import Accepted, ReconstructRequest, UploadRequest
from shared.contracts.request import ImageSource, JobRequest
from shared.errors import DependencyUnavailable
from shared.photo_names import name_in_url, unique_names

router = APIRouter(prefix="/api/v1", tags=["new jobs"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Any text of yours, at most 255 printable characters: a request repeated with it gives the job that it already made.",
    ),
]
_DOOR = ("VALIDATION_FAILED", "TOO_FEW_IMAGES", "TOO_MANY_IMAGES", "UNSAFE_URL", "IDEMPOTENCY_CONFLICT", "PAYLOAD_TOO_LARGE")
LOCATION = {"Location": {"description": "Where the job is.", "schema": {"type": "string"}}}
_ANSWERS: dict[int | str, dict[str, Any]] = {202: {"headers": LOCATION}, **responses(*_DOOR, "UNSUPPORTED_MEDIA_TYPE", "QUOTA_EXCEEDED")}


def json_body(schema: dict[str, Any], required: bool = True) -> dict[str, Any]:
    """The part of an OpenAPI operation that shows a JSON body which the route reads itself."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _form_body() -> dict[str, Any]:
    properties = {
        IMAGES: {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "The photos, one part each; a ZIP archive stands for the photos in it, a video for its sharpest frames.",
        },
        REQUEST: {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": UploadRequest.model_json_schema(),
            "description": "What is asked for: the same JSON as for links, without `image_urls`.",
        },
    }
    schema = {"type": "object", "required": [IMAGES], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@router.post(
    "/reconstruct",
    status_code=202,
    response_model=Accepted,
    responses=_ANSWERS,
    openapi_extra=json_body(ReconstructRequest.model_json_schema()),
    summary="A new job from links",
)
async def reconstruct(request: Request, tenant: Tenant, parts: PartsOf, idempotency_key: IdempotencyKey = None) -> JSONResponse:
    """Photos by their links. The answer comes once the job is durably recorded; the model comes with a webhook."""
    key = checked_key(idempotency_key)
    await parts.jobs.check_quota(tenant, key)
    require_json(request)
    body = await read_body(request, parts.settings.max_body_bytes)
    checked = parts.door.check_links(parse_object(body))
    names = unique_names([name_in_url(url) for url in checked.image_urls])
    images = tuple(ImageSource(name=name, url=url) for name, url in zip(names, checked.image_urls, strict=True))
    new = new_job(tenant, parts.new_id(), checked, images, hashlib.sha256(body).hexdigest(), key)
    try:
        return accepted(await parts.jobs.insert_job(new))
    except IdempotencyConflict:
        raise Problem("IDEMPOTENCY_CONFLICT") from None


@router.post(
    "/jobs",
    status_code=202,
    response_model=Accepted,
    responses=_ANSWERS,
    openapi_extra=_form_body(),
    summary="A new job from uploads",
)
async def upload(request: Request, tenant: Tenant, parts: PartsOf, idempotency_key: IdempotencyKey = None) -> JSONResponse:
    """Photos as multipart parts `images`, and the part `request`: the same JSON without `image_urls`."""
    key = checked_key(idempotency_key)
    boundary_of(request)
    await parts.jobs.check_quota(tenant, key)
    job_id = parts.new_id()
    try:
        async with photos_being_stored(parts, tenant, job_id, key):
            received = await receive_upload(request, job_id, parts.store, _limits(parts))
            return accepted(await parts.jobs.release_upload(_uploaded_job(tenant, job_id, received, parts, key)))
    except IdempotencyConflict:
        raise Problem("IDEMPOTENCY_CONFLICT") from None
    except JobMissing:
        raise Problem("UNAVAILABLE", "The upload took too long and was given up.") from None


@contextlib.asynccontextmanager
async def photos_being_stored(parts: Parts, tenant: str, job_id: str, idempotency_key: str | None) -> AsyncIterator[None]:
    """A hidden row, so that photos stored for it are purged should the job not come about, or we die. Raises QuotaExceeded."""
    await parts.jobs.begin_upload(tenant, job_id, idempotency_key)
    try:
        yield
    except BaseException:
        with contextlib.suppress(DependencyUnavailable):  # then the sweeper purges it, after an hour
            await parts.jobs.abandon_upload(tenant, job_id)
        raise


def _limits(parts: Parts) -> UploadLimits:
    settings = parts.settings
    return UploadLimits(
        within=settings.upload_lifetime,
        max_images=settings.max_images,
        max_image_bytes=settings.max_image_bytes,
        max_archive_bytes=settings.max_archive_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        max_request_bytes=settings.max_body_bytes,
    )


def _uploaded_job(tenant: str, job_id: str, received: ReceivedUpload, parts: Parts, key: str | None) -> NewJob:
    checked = parts.door.check_upload(parse_object(received.request, ("body", REQUEST)), ("body", REQUEST))
    parts.door.check_count(len(received.images), any(image.is_bundle for image in received.images), ("body", IMAGES))
    names = unique_names([image.given_name for image in received.images])
    images = tuple(
        ImageSource(name=name, key=image.key, sha256=image.sha256, bytes=image.bytes)
        for name, image in zip(names, received.images, strict=True)
    )
    # The body itself differs from call to call in its boundary: what counts is what it says.
    said = [received.request.decode(), [[image.given_name, image.sha256] for image in received.images]]
    return new_job(tenant, job_id, checked, images, hashlib.sha256(json.dumps(said).encode()).hexdigest(), key)


def new_job(
    tenant: str,
    job_id: str,
    checked: CheckedRequest,
    images: tuple[ImageSource, ...],
    body_sha256: str,
    key: str | None,
    parent: str | None = None,
) -> NewJob:
    """The job that a checked request asks for. `parent`: the job that it retries."""
    request = JobRequest(
        job_id=job_id,
        created_at=datetime.now(UTC),  # the database puts its own time here
        pipeline=checked.slip.pipeline,
        preset=checked.slip.preset,
        images=images,
        outputs=checked.outputs,
        options=checked.options,
        parent=parent,
    )
    return NewJob(
        tenant=tenant,
        slip=checked.slip,
        request=request,
        body_sha256=body_sha256,
        metadata=checked.metadata,
        callback_url=checked.callback_url,
        callback_events=checked.callback_events,
        idempotency_key=key,
        priority=checked.priority,
    )


def checked_key(key: str | None) -> str | None:
    """The Idempotency-Key. Raises Problem for one that is no header of ours."""
    if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        loc = ("header", "Idempotency-Key")
        raise field_problem("VALIDATION_FAILED", loc, "must be 1 to 255 printable ASCII characters", "string_pattern")
    return key


def accepted(inserted: InsertedJob) -> JSONResponse:
    """The 202."""
    message = "The job is recorded and will be done." if inserted.created else "This request was made before; this is its job."
    content = Accepted.model_validate({"job_id": inserted.job_id, "status": inserted.status, "message": message})
    return JSONResponse(content.model_dump(), 202, headers={"Location": f"/api/v1/jobs/{inserted.job_id}"})
