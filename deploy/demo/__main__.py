"""`python -m deploy.demo`: a whole job as a customer sees it, from photos on a web server to a verified webhook.

Without `--photos` the photos are a rendered sample capture, and the model is scored against its exact truth.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from deploy.demo import client
from deploy.demo.receiver import CallerBackend, Received
from deploy.embedded.process import EmbeddedProcess
from deploy.secrets import load_or_make

ROOT = Path(__file__).resolve().parents[2]
WEBHOOK_TIMEOUT_S = 60


def main() -> int:
    """Renders, submits, follows, verifies, scores; ends with summary.json."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo")
    parser.add_argument("--photos", type=Path, help="a folder of your own photos; default: a rendered sample capture")
    parser.add_argument("--preset", default="balanced", choices=["fastest", "balanced", "quality"])
    parser.add_argument("--out", type=Path, default=ROOT / ".demo")
    options = parser.parse_args()
    out = options.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    photos, truth = (options.photos.resolve(), None) if options.photos else _sample_capture(out / "capture")
    started = time.monotonic()
    job, webhook, files = _reconstruct(photos, out, options.preset)
    summary = _summary(job, files, truth, time.monotonic() - started)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    _print(job, webhook, files, summary, out)
    return 0 if job["status"] == "completed" and webhook.verified else 1


def _sample_capture(folder: Path) -> tuple[Path, Path]:
    from deploy.demo.capture import render_capture  # open3d takes seconds to load: only where it is needed

    started = time.monotonic()
    render_capture(folder)
    print(f"rendered {len(list((folder / 'photos').iterdir()))} photos in {time.monotonic() - started:.0f} s")
    return folder / "photos", folder / "truth"


def _reconstruct(photos: Path, out: Path, preset: str) -> tuple[dict[str, Any], Received, dict[str, Path]]:
    secrets = load_or_make(out / "data" / "secrets.env")
    backend = CallerBackend(photos, secrets["MESHWORK_WEBHOOK_SECRET"])
    settings = {**secrets, "MESHWORK_ALLOWED_PRIVATE_NETWORKS": "127.0.0.1/32"}
    try:
        with EmbeddedProcess(out / "data", settings) as service:
            print(f"Meshwork runs embedded on {service.url}; its log is {service.process.log}")
            with httpx.Client(base_url=service.url, headers={"X-API-Key": secrets["MESHWORK_API_KEY"]}, timeout=60) as api:
                job_id = client.submit(api, backend.photo_urls(), f"{backend.url}/hook", preset)
                print(f"job {job_id}: {len(backend.photo_urls())} photos, preset {preset}")
                job = client.show_progress(api, job_id)
                webhook = backend.webhooks.get(timeout=WEBHOOK_TIMEOUT_S)
                files = client.fetch(job, out / "files") if job["status"] == "completed" else {}
                return job, webhook, files
    finally:
        backend.close()


def _summary(job: dict[str, Any], files: dict[str, Path], truth: Path | None, seconds: float) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "status": job["status"],
        "seconds": round(seconds, 1),
        "stages": {stage["name"]: round(stage["seconds"], 1) for stage in job["stages"]},
        "verdict": (job["report"] or {}).get("verdict"),
        "files": {name: str(path) for name, path in files.items()},
        "error": job["error"],
    }
    if truth and files:
        from deploy.demo.scoring import as_summary, score_delivery

        score, errors = score_delivery(files["mesh.ply"], files["cameras.json"], truth)
        summary |= as_summary(score, errors)
    return summary


def _print(job: dict[str, Any], webhook: Received, files: dict[str, Path], summary: dict[str, Any], out: Path) -> None:
    print(f"webhook  {webhook.payload['type']}, signature {'verified' if webhook.verified else 'DOES NOT HOLD'}, id {webhook.webhook_id}")
    if job["error"]:
        print(f"failed   {job['error']['code']}: {job['error']['message']}\nhint     {job['error']['hint']}")
    for name in ("model.glb", "preview.png", "report.json"):
        if name in files:
            print(f"{name:<12} {files[name]}")
    if "f_score" in summary:
        print(
            "F-score  "
            + "  ".join(f"{float(limit):.2%} {value:.3f}" for limit, value in summary["f_score"].items())
            + "   (of the object's diagonal)"
        )
        print(f"cameras  mean error {summary['camera_error']:.3%} of the object's diagonal")
    print(f"verdict  {summary['verdict']}, {summary['seconds']:.0f} s; summary in {out / 'summary.json'}")


if __name__ == "__main__":
    sys.exit(main())
