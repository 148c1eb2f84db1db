"""The stages of a job one after the other, without broker and store: workspaces as a worker makes them, and what each step said.

`run_job` computes in this process; `tests.benchmarks.fidelity.chain` in processes of their own, measured.
"""

import importlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipelines.definition import DEFAULT_PIPELINE, load_pipelines
from shared.contracts.artifacts import ARTIFACTS
from shared.contracts.manifest import Manifest, StageReport, StepError
from shared.contracts.routing import STAGES
from shared.errors import PermanentError
from shared.runtime.stage import Stage
from shared.runtime.workspace import Workspace

_MANIFESTS = TypeAdapter(list[Manifest])
_JOB = "by-hand"
Params = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Step:
    """A step that ran: what it said, and the folder of its outputs."""

    manifest: Manifest
    outputs: Path


def run_job(photos: Mapping[str, bytes], folder: Path, stages: Sequence[str] = STAGES, params: Params | None = None) -> list[Manifest]:
    """Manifests of the steps that ran; the last one has the error that ended the job, or the report of export.

    `params` are over those of the preset `fastest`. A step that `stages` leaves out has no results, as in a pipeline without it.
    """
    wanted = params_of("fastest", params)
    done: list[Step] = []
    for name in stages:
        workspace = make_workspace(folder / name, _written(photos, folder / "photos"), done, "fastest", ("cameras.json", "report.json"))
        done.append(Step(_run(name, workspace, wanted[name], len(done)), workspace.outputs))
        if done[-1].manifest.error is not None:
            break
    return [step.manifest for step in done]


def report_of(manifests: list[Manifest]) -> dict[str, Any]:
    """report.json of a job that completed."""
    assert manifests[-1].error is None, manifests[-1].error
    return dict(manifests[-1].report.job_report or {})


def params_of(preset: str, params: Params | None = None) -> dict[str, dict[str, Any]]:
    """By stage: `params` over those of the preset."""
    base = load_pipelines()[DEFAULT_PIPELINE].presets[preset].params
    return {stage: {**base.get(stage, {}), **(params or {}).get(stage, {})} for stage in STAGES}


def make_workspace(
    root: Path, photos: Mapping[str, Path], earlier: Sequence[Step], preset: str, outputs: Sequence[str] = tuple(ARTIFACTS)
) -> Workspace:
    """The folder that a stage runs in, as after uploads named `photos`: links to them and to what the `earlier` steps made."""
    (root / "inputs" / "images").mkdir(parents=True)
    keys = {name: f"{i:03d}_{name}" for i, name in enumerate(photos)}
    request = {"job_id": _JOB, "created_at": "2025-01-01T00:00:00Z", "pipeline": DEFAULT_PIPELINE, "preset": preset}
    images = [{"name": name, "key": f"images/{key}"} for name, key in keys.items()]
    (root / "request.json").write_text(json.dumps({**request, "images": images, "outputs": list(outputs)}))
    (root / "steps.json").write_bytes(_MANIFESTS.dump_json([step.manifest for step in earlier]))
    for name, path in photos.items():
        (root / "inputs" / "images" / keys[name]).symlink_to(path.resolve())
    for step in earlier:
        (root / "inputs" / step.manifest.stage).symlink_to(step.outputs.resolve())
    return Workspace(root)


def manifest_of(name: str, position: int, report: StageReport, **facts: Any) -> Manifest:
    """What a step of the stage `name` is committed with; `facts`: seconds, peak_memory_bytes, error."""
    identity = {"job_id": _JOB, "step": name, "stage": name, "stage_version": _stage(name).version, "attempt": "a", "position": position}
    return Manifest.model_validate({**identity, "report": report, **facts})


def _stage(name: str) -> Stage:
    stage: Stage = getattr(importlib.import_module(f"services.{name}.stage"), f"{name.capitalize()}Stage")()
    return stage


def _written(photos: Mapping[str, bytes], folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in photos.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in photos}


def _run(name: str, workspace: Workspace, params: Mapping[str, Any], position: int) -> Manifest:
    stage = _stage(name)
    started = time.monotonic()
    report, failed = StageReport(), None
    try:
        report = stage.run(workspace, stage.Params.model_validate(params))
    except PermanentError as error:
        failed = StepError(code=error.code, message=error.message, hint=error.hint, retryable=error.retryable)
        report = error.report if isinstance(error.report, StageReport) else report
    return manifest_of(name, position, report, error=failed, seconds=time.monotonic() - started)
