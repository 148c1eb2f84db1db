"""Artifacts: list and download, by key or along a signed link."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from gateway.auth import Tenant, unauthenticated
from gateway.database.models import Job
from gateway.database.records import FINISHED
from gateway.parts import Parts, PartsOf
from gateway.problems import Problem, responses
from gateway.routes.jobs import no_such_job
from gateway.schemas import ArtifactList
from shared.contracts.artifacts import ARTIFACTS
from shared.errors import ObjectMissing

router = APIRouter(prefix="/api/v1", tags=["artifacts"])

Expires = Annotated[str, Query(description="Of a signed link.")]
Signature = Annotated[str, Query(description="Of a signed link: then no key is needed.")]
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file, where the store has no links of its own.", "content": {"application/octet-stream": {}}},
    302: {"description": "A fresh link to the file, good for some minutes."},
}


@router.get(
    "/jobs/{job_id}/artifacts",
    response_model=ArtifactList,
    responses=responses("NOT_FOUND", "JOB_NOT_FINISHED"),
    summary="Artifacts of a job",
)
async def list_artifacts(job_id: str, tenant: Tenant, parts: PartsOf) -> JSONResponse:
    """What the job made, each with a signed link."""
    job = _finished(await parts.jobs.get_files(tenant, job_id))
    return JSONResponse({"artifacts": parts.links.artifacts_of(job)})


@router.head("/jobs/{job_id}/artifacts/{name}", response_model=None, include_in_schema=False)
@router.get(
    "/jobs/{job_id}/artifacts/{name}",
    response_model=None,
    responses={**_FILE, **responses("NOT_FOUND", "JOB_NOT_FINISHED")},
    summary="Download an artifact",
)
async def download(job_id: str, name: str, request: Request, parts: PartsOf, expires: Expires = "", signature: Signature = "") -> Response:
    """One file. A signed link opens it without a key until it expires."""
    job = await _opened(parts, request, job_id, name, expires, signature)
    artifact = next((found for found in job.artifacts or () if found["name"] == name), None)
    if artifact is None:
        raise Problem("NOT_FOUND", "The job has no such artifact.")
    content_type = ARTIFACTS[name][1] if name in ARTIFACTS else "application/octet-stream"
    url = await parts.store.presign(artifact["key"], parts.settings.link_lifetime, name, content_type)
    if url is not None:
        return RedirectResponse(url, 302)
    return await _bytes_of(parts, artifact, content_type, with_body=request.method == "GET")


async def _opened(parts: Parts, request: Request, job_id: str, name: str, expires: str, signature: str) -> Job:
    """The job, for who has the key or the link. Raises Problem. Nobody asks the database anything with a link that we did not sign."""
    tenant: str | None = getattr(request.state, "tenant", None)
    if tenant is None:
        end = parts.links.end_of_link(job_id, name, expires, signature)
        if end is None or end < (await parts.jobs.now()).timestamp():
            raise unauthenticated()
    return _finished(await parts.jobs.get_files(tenant, job_id))


def _finished(job: Job | None) -> Job:
    """Raises Problem where there is no job, or one that goes on."""
    if job is None:
        raise no_such_job()
    if job.status not in FINISHED:
        raise Problem("JOB_NOT_FINISHED")
    return job


async def _bytes_of(parts: Parts, artifact: dict[str, Any], content_type: str, with_body: bool) -> Response:
    headers = {
        "Content-Length": str(artifact["bytes"]),
        "Content-Disposition": f'attachment; filename="{artifact["name"]}"',
        "ETag": f'"{artifact["sha256"]}"',
    }
    if not with_body:
        return Response(headers=headers, media_type=content_type)
    chunks = parts.store.stream(artifact["key"])
    try:
        first = await anext(chunks, b"")  # before the status is sent: a store that is away is a 503, not half a file
    except ObjectMissing:
        raise Problem("NOT_FOUND", "The file is gone: its time was over.") from None
    return StreamingResponse(_joined(first, chunks), headers=headers, media_type=content_type)


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
