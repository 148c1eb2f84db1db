"""Captures through a real gateway: posted as a caller posts them, scored from what was downloaded.

python -m tests.benchmarks.fidelity served CAPTURE … [--mode embedded mesh] [--preset balanced] [--out .bench] [--results RESULTS.md]
    embedded: one process · mesh: RabbitMQ, PostgreSQL, MinIO, the gateway and a worker per stage, as processes of this machine
    prints a row per mode and how far the mesh is from embedded; OUT/served.json: the newest row of each

Each mode first gets a job that is not measured, of the first eight photos: kernels are compiled and libraries loaded before the clock runs.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from deploy.acceptance import MODES
from deploy.demo.client import fetch, submit
from deploy.demo.receiver import CallerBackend
from tests.benchmarks.fidelity.captures import CAPTURES, rendered
from tests.benchmarks.fidelity.chain import identity
from tests.benchmarks.fidelity.score import score_run
from tests.benchmarks.fidelity.served_table import columns, lines, parts_of_elsewhere, write_section
from tests.benchmarks.fidelity.table import aligned

HERE = Path(__file__).resolve().parent
WARMING_PHOTOS = 8
WEBHOOK_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Ended:
    """A job that ended. `seconds`: from the answer that accepted it to its webhook; `elsewhere`: those in which nothing computed, by what
    they led to (a stage's end, the webhook); `cpu_seconds`: by program, `stage` for all that computes."""

    seconds: float
    elsewhere: dict[str, float]
    cpu_seconds: dict[str, float]
    job: dict[str, Any]


class JobFailedError(Exception):
    """A job did not complete; the message is what its report says."""


@dataclass(frozen=True)
class Service:
    """A gateway, and the secrets that a caller has."""

    data: Path
    url: str
    secrets: dict[str, str]

    def reconstruct(self, photos: Path, preset: str, files: Path | None = None) -> Ended:
        """Posts the photos' URLs, waits for the webhook, downloads what was made into `files`. Raises JobFailedError."""
        backend = CallerBackend(photos, self.secrets["MESHWORK_WEBHOOK_SECRET"])
        try:
            with httpx.Client(base_url=self.url, headers={"X-API-Key": self.secrets["MESHWORK_API_KEY"]}, timeout=60) as api:
                job_id = submit(api, backend.photo_urls(), f"{backend.url}/hook", preset)
                accepted, cpu_before = time.monotonic(), cpu_seconds()
                webhook = backend.webhooks.get(timeout=WEBHOOK_TIMEOUT_S)
                seconds, cpu_after, told = time.monotonic() - accepted, cpu_seconds(), datetime.now(UTC)
                job = api.get(f"/api/v1/jobs/{job_id}").raise_for_status().json()
        finally:
            backend.close()
        if job["status"] != "completed" or not webhook.verified:
            raise JobFailedError(f"{job['status']}: {job['error']}")
        if files is not None:
            fetch(job, files)
        return Ended(seconds, self._elsewhere(job, told), {name: round(spent, 2) for name, spent in (cpu_after - cpu_before).items()}, job)

    def _elsewhere(self, job: dict[str, Any], told: datetime) -> dict[str, float]:
        """From the workers' logs, which say when each step was settled."""
        settled: dict[str, datetime] = {}
        for log in self.data.rglob("*.log"):
            for line in log.read_text(errors="replace").splitlines():
                if job["job_id"] in line and "delivery settled: done" in line and line.startswith("{"):
                    said = json.loads(line)
                    settled[said["stage"]] = datetime.fromisoformat(said["time"])
        found, before = {}, datetime.fromisoformat(job["created_at"])
        for stage in (stage for stage in job["stages"] if stage["name"] in settled):
            at = settled[stage["name"]]
            found[stage["name"]] = round((at - before).total_seconds() - stage["seconds"], 2)
            before = at
        return {**found, "webhook": round((told - before).total_seconds(), 2)}


def cpu_seconds() -> Counter[str]:
    """Of all processes that this one started, and theirs, so far: by program, `stage` for the children that compute."""
    found: Counter[str] = Counter()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times, command = process.cpu_times(), process.cmdline()
            modules = [command[i + 1] for i, word in enumerate(command[:-1]) if word == "-m"]
            name = "stage" if "shared.runtime.child_main" in modules else (modules or [process.name()])[0]
            found[name] += times.user + times.system + times.children_user + times.children_system
    return found


@contextmanager
def service(mode: str, kernels: Path) -> Iterator[Service]:
    """A service of its own, on empty data, with the compiled `kernels` of earlier ones."""
    kernels.mkdir(parents=True, exist_ok=True)
    os.environ["NUMBA_CACHE_DIR"] = str(kernels)  # every process of the service inherits it
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshwork-served-")))
        scratch.chmod(0o755)  # PostgreSQL's own user must get through
        yield Service(scratch / "data", *stack.enter_context(MODES[mode](scratch / "data")))


def serve(name: str, mode: str, preset: str, out: Path) -> dict[str, Any]:
    """The row of a capture in a mode."""
    capture, files = rendered(name, out / "captures"), out / "served" / preset / mode / name
    with service(mode, out / "kernels") as running, tempfile.TemporaryDirectory() as few:
        for photo in sorted((capture / "photos").iterdir())[:WARMING_PHOTOS]:
            (Path(few) / photo.name).symlink_to(photo)
        running.reconstruct(Path(few), preset)
        ended = running.reconstruct(capture / "photos", preset, files)
    return {
        **identity(name, preset),
        "mode": mode,
        "seconds": ended.seconds,
        "elsewhere": ended.elsewhere,
        "cpu_seconds": ended.cpu_seconds,
        "stages": {stage["name"]: stage["seconds"] for stage in ended.job["stages"]},
        **score_run(files, capture).as_json(),
    }


def main(arguments: list[str]) -> int:
    """The verb."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fidelity served")
    parser.add_argument("captures", nargs="+", choices=CAPTURES, metavar="CAPTURE")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=["embedded", "mesh"])
    parser.add_argument("--preset", default="balanced", choices=["fastest", "balanced", "quality"])
    parser.add_argument("--out", type=Path, default=HERE.parents[2] / ".bench")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md", help="its section `Embedded and mesh` is rewritten")
    given = parser.parse_args(arguments)
    for name in given.captures:
        for mode in given.mode:
            print(f"{name}, {given.preset}, {mode} …", flush=True)
            rows = _remember(serve(name, mode, given.preset, given.out.resolve()), given.out.resolve() / "served.json")
            write_section(rows, given.results)
        print(
            aligned(lines(row for row in rows if (row["capture"], row["preset"]) == (name, given.preset)), columns()),
            parts_of_elsewhere(rows),
            sep="\n",
            flush=True,
        )
    return 0


def _remember(row: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """All rows known, the newest of each capture, preset and mode."""
    rows = [*json.loads(path.read_text())] if path.exists() else []
    known = {(r["capture"], r["preset"], r["mode"]): r for r in (*rows, row)}
    path.write_text(json.dumps([known[key] for key in sorted(known)], indent=1))
    return [known[key] for key in sorted(known)]
