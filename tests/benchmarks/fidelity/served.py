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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
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
from tests.benchmarks.fidelity.served_table import columns, lines, write_section
from tests.benchmarks.fidelity.table import aligned

HERE = Path(__file__).resolve().parent
WARMING_PHOTOS = 8
WEBHOOK_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Ended:
    """A job that ended. `seconds`: from the answer that accepted it to its webhook; `cpu_seconds`: of every process of the service."""

    seconds: float
    cpu_seconds: float
    job: dict[str, Any]


class JobFailedError(Exception):
    """A job did not complete; the message is what its report says."""


@dataclass(frozen=True)
class Service:
    """A gateway, and the secrets that a caller has."""

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
                seconds, cpu_after = time.monotonic() - accepted, cpu_seconds()
                job = api.get(f"/api/v1/jobs/{job_id}").raise_for_status().json()
        finally:
            backend.close()
        if job["status"] != "completed" or not webhook.verified:
            raise JobFailedError(f"{job['status']}: {job['error']}")
        if files is not None:
            fetch(job, files)
        return Ended(seconds, cpu_after - cpu_before, job)


def cpu_seconds() -> float:
    """Of all processes that this one started, so far; theirs too. Those of ended children count with their parents."""
    times = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times.append(process.cpu_times())
    return float(sum(t.user + t.system + t.children_user + t.children_system for t in times))


@contextmanager
def service(mode: str, kernels: Path) -> Iterator[Service]:
    """A service of its own, on empty data, with the compiled `kernels` of earlier ones."""
    kernels.mkdir(parents=True, exist_ok=True)
    os.environ["NUMBA_CACHE_DIR"] = str(kernels)  # every process of the service inherits it
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshwork-served-")))
        scratch.chmod(0o755)  # PostgreSQL's own user must get through
        yield Service(*stack.enter_context(MODES[mode](scratch / "data")))


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
        print(aligned(lines(row for row in rows if (row["capture"], row["preset"]) == (name, given.preset)), columns()), flush=True)
    return 0


def _remember(row: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """All rows known, the newest of each capture, preset and mode."""
    rows = [*json.loads(path.read_text())] if path.exists() else []
    known = {(r["capture"], r["preset"], r["mode"]): r for r in (*rows, row)}
    path.write_text(json.dumps([known[key] for key in sorted(known)], indent=1))
    return [known[key] for key in sorted(known)]
