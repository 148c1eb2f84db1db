"""Probes and metrics: no key needed, and nothing of any job told."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from gateway.parts import PartsOf
from gateway.schemas import Liveness, Readiness

router = APIRouter(tags=["health"])


@router.get("/livez", response_model=Liveness, summary="Whether the process runs")
async def livez() -> JSONResponse:
    """That it answers is the news."""
    return JSONResponse({"status": "alive"})


@router.get(
    "/readyz",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "A required dependency is away."}},
    summary="Whether requests are taken",
)
async def readyz(parts: PartsOf) -> JSONResponse:
    """Each dependency and its state a second ago at most. Jobs are taken as long as the required ones answer; the others make them wait."""
    answers = await parts.readiness.answers()
    missing = [name for name, up in answers.items() if not up]
    blocked = any(parts.readiness.dependencies[name].required for name in missing)
    status = "unavailable" if blocked else "degraded" if missing else "ready"
    states = {name: {"state": "ok" if up else "unavailable"} for name, up in answers.items()}
    return JSONResponse({"status": status, "dependencies": states}, 503 if blocked else 200)


@router.get("/metrics", response_class=Response, summary="Metrics for Prometheus")
async def metrics(parts: PartsOf) -> Response:
    """Counters and histograms of this process, in the text format of Prometheus."""
    body, content_type = parts.exposition()
    return Response(body, headers={"Content-Type": content_type})
