"""What was told to callers, and telling it again."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from gateway.auth import Tenant
from gateway.database.records import JobMissing
from gateway.documents import delivery_document
from gateway.parts import PartsOf
from gateway.problems import Problem, responses
from gateway.routes.jobs import no_such_job
from gateway.schemas import DeliveryList, Replay

router = APIRouter(prefix="/api/v1", tags=["webhooks"])


@router.get("/jobs/{job_id}/webhooks", response_model=DeliveryList, responses=responses("NOT_FOUND"), summary="Webhooks of a job")
async def list_deliveries(job_id: str, tenant: Tenant, parts: PartsOf) -> JSONResponse:
    """Every webhook of the job with the calls that have ended."""
    try:
        records = await parts.jobs.deliveries_of(tenant, job_id)
    except JobMissing:
        raise no_such_job() from None
    return JSONResponse({"deliveries": [delivery_document(record) for record in records]})


@router.post(
    "/jobs/{job_id}/webhooks/{delivery_id}/replay",
    status_code=202,
    response_model=Replay,
    responses=responses("NOT_FOUND"),
    summary="Send a webhook again",
)
async def replay(job_id: str, delivery_id: str, tenant: Tenant, parts: PartsOf) -> JSONResponse:
    """One call more, now: the same bytes and id with a new timestamp and signature. The schedule goes on as it would have."""
    try:
        await parts.jobs.replay(tenant, job_id, delivery_id)
    except JobMissing:
        raise Problem("NOT_FOUND", "There is no such webhook.") from None
    return JSONResponse({"id": delivery_id, "message": "The webhook will be sent again."}, 202)
