"""Probes and metrics: no key needed, and nothing of any job told."""

import asyncio

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from loguru import logger

from gateway.parts import Dependency, PartsOf
from gateway.schemas import Liveness, Readiness

router = APIRouter(tags=["health"])

_PING_S = 3.0


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
    """Each dependency and its state. Jobs are taken as long as the required ones answer; the others make them wait."""
    names, dependencies = list(parts.dependencies), list(parts.dependencies.values())
    answers = dict(zip(names, await asyncio.gather(*(_answers(dependency) for dependency in dependencies)), strict=True))
    missing = [name for name, up in answers.items() if not up]
    blocked = any(parts.dependencies[name].required for name in missing)
    status = "unavailable" if blocked else "degraded" if missing else "ready"
    states = {name: {"state": "ok" if up else "unavailable"} for name, up in answers.items()}
    return JSONResponse({"status": status, "dependencies": states}, 503 if blocked else 200)


async def _answers(dependency: Dependency) -> bool:
    try:
        async with asyncio.timeout(_PING_S):
            await dependency.ping()
    except Exception as error:  # whatever it is, it is no answer
        logger.debug("a dependency does not answer: {}", type(error).__name__)
        return False
    return True


@router.get("/metrics", response_class=Response, summary="Metrics for Prometheus")
async def metrics(parts: PartsOf) -> Response:
    """Counters and histograms of this process, in the text format of Prometheus."""
    body, content_type = parts.exposition()
    return Response(body, headers={"Content-Type": content_type})
