"""The six stages one after the other on a folder of photos, each in its own process, measured; any stage may start from another run.

python -m tests.benchmarks.fidelity.chain PHOTOS OUT [--preset balanced] [--params '{"mvs": {…}}'] [--upstream RUN --first mvs] [--last mvs]

OUT/<stage>/{inputs/<earlier stage>, outputs/, report.json, log.txt}; OUT/measures.json = {"<stage>": {"seconds", "cpu_seconds", "peak_mb"}}
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

from shared.contracts.manifest import StageReport
from shared.contracts.routing import STAGES
from tests.support.by_hand import Step, make_workspace, manifest_of, params_of

_ROOT = Path(__file__).resolve().parents[3]


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
    wanted = params_of(preset, params)
    named = {path.name: path for path in sorted(photos.iterdir()) if path.suffix.lower() in {".jpg", ".jpeg", ".png"}}
    earlier = [_step(upstream or out, stage, position) for position, stage in enumerate(STAGES[: STAGES.index(first)])]
    measures: dict[str, Measure] = {}
    for stage in STAGES[STAGES.index(first) : STAGES.index(last) + 1]:
        shutil.rmtree(out / stage, ignore_errors=True)
        make_workspace(out / stage, named, earlier, preset)
        measures[stage] = _run_stage(stage, out / stage, wanted[stage])
        _remember(out / "measures.json", stage, measures[stage])
        earlier.append(_step(out, stage, len(earlier)))
    return measures


def run_chain_apart(photos: Path, out: Path, preset: str, params: dict[str, dict[str, Any]] | None = None) -> None:
    """`run_chain` in a small process of its own: a child's peak memory counts from what its parent had at the fork."""
    command = [sys.executable, "-m", "tests.benchmarks.fidelity.chain", str(photos), str(out), "--preset", preset]
    done = subprocess.run([*command, "--params", json.dumps(params or {})], cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if "Error" in line]
        raise StageFailedError(said[-1][:300] if said else f"exit status {done.returncode}")


def identity(capture: str, preset: str) -> dict[str, Any]:
    """What a row of figures belongs to: capture, preset, commit, cores."""
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return {"capture": capture, "preset": preset, "commit": commit, "cores": len(os.sched_getaffinity(0))}


def _step(run: Path, stage: str, position: int) -> Step:
    """What a step of a run left: its report, and what it took."""
    report = StageReport.model_validate_json((run / stage / "report.json").read_bytes())
    measure = Measure(**json.loads((run / "measures.json").read_text())[stage])
    manifest = manifest_of(stage, position, report, seconds=measure.seconds, peak_memory_bytes=int(measure.peak_mb * (1 << 20)))
    return Step(manifest, run / stage / "outputs")


def _remember(path: Path, stage: str, measure: Measure) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, stage: asdict(measure)}, indent=1))


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
