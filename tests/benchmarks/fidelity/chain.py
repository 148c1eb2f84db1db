"""The six stages one after the other on a folder of photos, each in its own process, measured; any stage may start from another run.

python -m tests.benchmarks.fidelity.chain PHOTOS OUT [--preset balanced] [--params '{"mvs": {…}}'] [--upstream RUN --first mvs] [--last mvs]

OUT/<stage>/{inputs/<earlier stage>, outputs/, report.json}; OUT/measures.json = {"<stage>": {"seconds", "cpu_seconds", "peak_mb"}}
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.definition import load_pipelines
from shared.contracts.routing import STAGES

_ROOT = Path(__file__).resolve().parents[3]
_OUTPUTS = ("model.glb", "model_obj.zip", "mesh.ply", "pointcloud.ply", "preview.png", "cameras.json", "report.json")


class StageFailedError(Exception):
    """A stage ended with an error; the message is what it printed."""


@dataclass(frozen=True)
class Measure:
    """What one stage took. `peak_mb`: resident memory, MiB."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def run_chain(
    photos: Path,
    out: Path,
    preset: str = "balanced",
    params: dict[str, dict[str, Any]] | None = None,
    upstream: Path | None = None,
    first: str = "ingest",
    last: str = "export",
) -> dict[str, Measure]:
    """Runs the stages `first` to `last` below `out`; earlier ones' results are those of the run in `upstream` (default: `out` itself)."""
    wanted = {name: {**base, **(params or {}).get(name, {})} for name, base in _preset_params(preset).items()}
    measures: dict[str, Measure] = {}
    for stage in STAGES[STAGES.index(first) : STAGES.index(last) + 1]:
        earlier = {name: _outputs_of(name, first, out, upstream or out) for name in STAGES[: STAGES.index(stage)]}
        workspace = _workspace(out / stage, stage, photos, earlier)
        measures[stage] = _run_stage(stage, workspace, wanted[stage])
        known = json.loads((out / "measures.json").read_text()) if (out / "measures.json").exists() else {}
        known.update({name: asdict(measure) for name, measure in measures.items()})
        (out / "measures.json").write_text(json.dumps(known, indent=1))
    return measures


def run_chain_apart(photos: Path, out: Path, preset: str, params: dict[str, dict[str, Any]] | None = None) -> None:
    """`run_chain` in a small process of its own: a child's peak memory counts from what its parent had at the fork."""
    command = [sys.executable, "-m", "tests.benchmarks.fidelity.chain", str(photos), str(out), "--preset", preset]
    done = subprocess.run([*command, "--params", json.dumps(params or {})], cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if "Error" in line]
        raise StageFailedError(said[-1][:300] if said else f"exit status {done.returncode}")


def _outputs_of(earlier: str, first: str, out: Path, upstream: Path) -> Path:
    return (out if STAGES.index(earlier) >= STAGES.index(first) else upstream) / earlier / "outputs"


def _preset_params(preset: str) -> dict[str, dict[str, Any]]:
    pipeline = load_pipelines()["photogrammetry"]
    return {stage: dict(pipeline.presets[preset].params.get(stage, {})) for stage in STAGES}


def _workspace(folder: Path, stage: str, photos: Path, earlier: dict[str, Path]) -> Path:
    """A workspace as the runtime would make it, with links to what earlier stages made."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "inputs").mkdir(parents=True)
    names = sorted(path.name for path in photos.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    images = [{"name": name, "key": f"images/{i:03d}_{name}"} for i, name in enumerate(names)]
    request = {"job_id": "bench", "created_at": "2025-01-01T00:00:00Z", "pipeline": "photogrammetry", "preset": "balanced"}
    (folder / "request.json").write_text(json.dumps({**request, "images": images, "outputs": _OUTPUTS}))
    if stage == "ingest":
        (folder / "inputs" / "images").mkdir()
        for i, name in enumerate(names):
            (folder / "inputs" / "images" / f"{i:03d}_{name}").symlink_to((photos / name).resolve())
    for name, outputs in earlier.items():
        (folder / "inputs" / name).symlink_to(outputs.resolve())
    return folder


def _run_stage(stage: str, workspace: Path, params: dict[str, Any]) -> Measure:
    started = time.monotonic()
    command = [sys.executable, "-m", f"services.{stage}", "run", str(workspace), "--params", json.dumps(params)]
    with (workspace / "report.json").open("wb") as report, (workspace / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=report, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise StageFailedError(f"{stage}: {(workspace / 'log.txt').read_text()[-2000:]}")
    return Measure(round(time.monotonic() - started, 2), round(usage.ru_utime + usage.ru_stime, 2), round(usage.ru_maxrss / 1024, 1))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run the stages on a folder of photos, measured.")
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--params", type=json.loads, default={}, help='{"<stage>": {…}} over those of the preset')
    parser.add_argument("--upstream", type=Path, help="a run whose results the stages before --first are taken from")
    parser.add_argument("--first", choices=STAGES, default="ingest")
    parser.add_argument("--last", choices=STAGES, default="export")
    given = parser.parse_args()
    for stage, measure in run_chain(given.photos, given.out, given.preset, given.params, given.upstream, given.first, given.last).items():
        print(f"{stage:13} {measure.seconds:7.1f} s  {measure.cpu_seconds:7.1f} CPU s  {measure.peak_mb:7.0f} MiB")


if __name__ == "__main__":
    main()
