"""The stages of a job one after the other in this process, as a worker would run them, without broker and store."""

import importlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipelines.definition import load_pipelines
from shared.contracts.manifest import Manifest, StageReport, StepError
from shared.contracts.routing import STAGES
from shared.errors import PermanentError
from shared.runtime.stage import Stage
from shared.runtime.workspace import Workspace

_CLASSES = {
    "ingest": "Ingest",
    "segmentation": "Segmentation",
    "sfm": "Sfm",
    "mvs": "Mvs",
    "postprocess": "Postprocess",
    "export": "Export",
}
_MANIFESTS = TypeAdapter(list[Manifest])
Params = Mapping[str, Mapping[str, Any]]


def run_job(photos: Mapping[str, bytes], folder: Path, stages: Sequence[str] = STAGES, params: Params | None = None) -> list[Manifest]:
    """Manifests of the steps that ran; the last one has the error that ended the job, or the report of export.

    `params` are over those of the preset `fastest`. A step that `stages` leaves out has no results, as in a pipeline without it.
    """
    base = load_pipelines()["photogrammetry"].presets["fastest"].params
    done: list[Manifest] = []
    for name in stages:
        workspace = _workspace(folder, name, photos, done)
        done.append(_run(name, workspace, {**base.get(name, {}), **(params or {}).get(name, {})}, len(done)))
        if done[-1].error is not None:
            break
    return done


def report_of(manifests: list[Manifest]) -> dict[str, Any]:
    """report.json of a job that completed."""
    assert manifests[-1].error is None, manifests[-1].error
    return dict(manifests[-1].report.job_report or {})


def _workspace(folder: Path, stage: str, photos: Mapping[str, bytes], done: list[Manifest]) -> Workspace:
    root = folder / stage
    (root / "outputs").mkdir(parents=True)
    (root / "inputs" / "images").mkdir(parents=True)
    sources = [{"name": name, "key": f"images/{i:03d}_{name}"} for i, name in enumerate(photos)]
    request = {"job_id": "made", "created_at": "2025-01-01T00:00:00Z", "pipeline": "photogrammetry", "preset": "fastest"}
    (root / "request.json").write_text(json.dumps({**request, "images": sources, "outputs": ["cameras.json", "report.json"]}))
    (root / "steps.json").write_bytes(_MANIFESTS.dump_json(done))
    for i, (name, data) in enumerate(photos.items()):
        (root / "inputs" / "images" / f"{i:03d}_{name}").write_bytes(data)
    for manifest in done:
        (root / "inputs" / manifest.stage).symlink_to((folder / manifest.stage / "outputs").resolve())
    return Workspace(root)


def _run(name: str, workspace: Workspace, params: Mapping[str, Any], position: int) -> Manifest:
    stage: Stage = getattr(importlib.import_module(f"services.{name}.stage"), f"{_CLASSES[name]}Stage")()
    started = time.monotonic()
    report, failed = StageReport(), None
    try:
        report = stage.run(workspace, stage.Params.model_validate(params))
    except PermanentError as error:
        failed = StepError(code=error.code, message=error.message, hint=error.hint, retryable=error.retryable)
        report = error.report if isinstance(error.report, StageReport) else report
    facts = {"job_id": "made", "step": name, "stage": name, "stage_version": stage.version, "attempt": "a", "position": position}
    return Manifest.model_validate({**facts, "report": report, "error": failed, "seconds": time.monotonic() - started})
