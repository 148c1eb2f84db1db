"""A caller: posts the photos' URLs, follows the job, fetches what was made."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

FINAL = {"completed", "failed", "cancelled"}


def submit(api: httpx.Client, photo_urls: list[str], callback_url: str, preset: str) -> str:
    """Posts the job and returns its id."""
    request = {"image_urls": photo_urls, "callback_url": callback_url, "preset": preset, "metadata": {"from": "demo"}}
    return str(api.post("/api/v1/reconstruct", json=request).raise_for_status().json()["job_id"])


def follow(api: httpx.Client, job_id: str) -> Iterator[dict[str, Any]]:
    """The job, again and again, until it has ended."""
    while True:
        job = api.get(f"/api/v1/jobs/{job_id}").raise_for_status().json()
        yield job
        if job["status"] in FINAL:
            return
        time.sleep(0.5)


def show_progress(api: httpx.Client, job_id: str) -> dict[str, Any]:
    """Draws a bar per stage; returns the job as it ended."""
    columns = (TextColumn("{task.description:>12}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[state]}"))
    job: dict[str, Any] = {}
    with Progress(*columns) as bars:
        tasks: dict[str, TaskID] = {}
        for job in follow(api, job_id):
            for stage in job["stages"]:
                if stage["status"] == "pending":
                    continue
                if stage["name"] not in tasks:
                    tasks[stage["name"]] = bars.add_task(stage["name"], state="")
                done = stage["status"] == "completed"
                bars.update(
                    tasks[stage["name"]],
                    completed=100 if done else stage["progress"],
                    state=f"{stage['seconds']:.1f} s" if done else stage["status"],
                )
    return job


def fetch(job: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Downloads every artifact by its signed link, without a key."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    with httpx.Client(follow_redirects=True, timeout=60) as plain:
        for artifact in job["artifacts"]:
            files[artifact["name"]] = folder / artifact["name"]
            files[artifact["name"]].write_bytes(plain.get(artifact["url"]).raise_for_status().content)
    return files
