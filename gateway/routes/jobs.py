"""Jobs: list, look at, cancel, delete."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from gateway.auth import Tenant
from gateway.database.records import Cursor, JobFinished, JobMissing, JobRecord
from gateway.documents import job_document
from gateway.parts import Parts, PartsOf
from gateway.problems import Problem, field_problem, responses
from gateway.schemas import JobDocument, JobPage, JobStatus

router = APIRouter(prefix="/api/v1", tags=["jobs"])

Limit = Annotated[int, Query(ge=1, le=100, description="Most jobs on a page.")]
Status = Annotated[JobStatus | None, Query(description="Only jobs that are so.")]
CursorText = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")]


async def find_job(parts: Parts, tenant: str, job_id: str) -> JobRecord:
    """The tenant's job. Raises Problem NOT_FOUND."""
    record = await parts.jobs.get_job(tenant, job_id)
    if record is None:
        raise no_such_job()
    return record


def no_such_job() -> Problem:
    """The 404."""
    return Problem("NOT_FOUND", "There is no such job.")


@router.get("/jobs", response_model=JobPage, responses=responses("VALIDATION_FAILED"), summary="Jobs, newest first")
async def list_jobs(tenant: Tenant, parts: PartsOf, limit: Limit = 20, status: Status = None, cursor: CursorText = None) -> JSONResponse:
    """Jobs, newest first. The cursor is a position: jobs that arrive meanwhile move nothing. A page of jobs of megabytes has fewer."""
    page = await parts.jobs.list_jobs(tenant, status, limit, _checked(cursor))
    jobs = [job_document(record, parts.links) for record in page.records]
    return JSONResponse({"jobs": jobs, "next_cursor": page.next_cursor})


def _checked(cursor: str | None) -> str | None:
    """A cursor that we made: ours are in UTC, and a moment elsewhere may lie before the first year or after the last."""
    try:
        if cursor is not None and Cursor.decode(cursor).created_at.utcoffset() != timedelta(0):
            raise ValueError
    except ValueError:
        raise field_problem("VALIDATION_FAILED", ("query", "cursor"), "this is no cursor of ours", "cursor") from None
    return cursor


@router.get("/jobs/{job_id}", response_model=JobDocument, responses=responses("NOT_FOUND"), summary="A job")
async def get_job(job_id: str, tenant: Tenant, parts: PartsOf) -> JSONResponse:
    """Everything about a job, from its row."""
    return JSONResponse(job_document(await find_job(parts, tenant, job_id), parts.links))


@router.post(
    "/jobs/{job_id}/cancel",
    status_code=202,
    response_model=JobDocument,
    responses=responses("NOT_FOUND", "JOB_FINISHED"),
    summary="Cancel a job",
)
async def cancel(job_id: str, tenant: Tenant, parts: PartsOf) -> JSONResponse:
    """Ends the job at once; a worker that is on it stops within seconds."""
    try:
        await parts.jobs.cancel_job(tenant, job_id)
    except JobMissing:
        raise no_such_job() from None
    except JobFinished:
        raise Problem("JOB_FINISHED") from None
    return JSONResponse(job_document(await find_job(parts, tenant, job_id), parts.links), 202)


@router.delete("/jobs/{job_id}", status_code=204, responses=responses("NOT_FOUND"), summary="Delete a job")
async def delete(job_id: str, tenant: Tenant, parts: PartsOf) -> Response:
    """Stops the job if it runs, and removes it with its files. Sends no webhook, and drops those still due."""
    try:
        await parts.jobs.delete_job(tenant, job_id)
    except JobMissing:
        raise no_such_job() from None
    return Response(status_code=204)
