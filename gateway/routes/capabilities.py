"""What can be asked for."""

from typing import Any, get_args

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from gateway import __version__
from gateway.auth import Tenant
from gateway.parts import PartsOf
from gateway.problems import responses
from gateway.schemas import CallbackEvent, Capabilities
from gateway.settings import limits_of
from pipelines.definition import Pipeline

router = APIRouter(prefix="/api/v1", tags=["capabilities"])


@router.get("/capabilities", response_model=Capabilities, responses=responses(), summary="What can be asked for")
async def capabilities(tenant: Tenant, parts: PartsOf) -> JSONResponse:
    """Presets, pipelines, outputs, every stage's options as JSON Schema, limits and versions of this installation."""
    pipelines = parts.door.pipelines
    return JSONResponse(
        {
            "presets": _presets(pipelines.values()),
            "pipelines": {name: _pipeline(pipeline) for name, pipeline in pipelines.items()},
            "outputs": list(dict.fromkeys(name for pipeline in pipelines.values() for name in pipeline.outputs)),
            "stages": {name: {"version": stage.version, "params": stage.schema} for name, stage in parts.door.stages.items()},
            "callback_events": list(get_args(CallbackEvent)),
            "limits": limits_of(parts.settings),
            "versions": {"api": "v1", "service": __version__},
        }
    )


def _presets(pipelines: Any) -> dict[str, Any]:
    presets: dict[str, Any] = {}
    for pipeline in pipelines:
        for name, preset in pipeline.presets.items():
            presets.setdefault(name, {"description": preset.description, "pipelines": []})["pipelines"].append(pipeline.name)
    return presets


def _pipeline(pipeline: Pipeline) -> dict[str, Any]:
    return {
        "version": pipeline.version,
        "description": pipeline.description,
        "steps": [step.name for step in pipeline.steps],
        "outputs": list(pipeline.outputs),
        "presets": {name: preset.params for name, preset in pipeline.presets.items()},
    }
