"""Jobs of stand-ins: sent as a careful caller sends them, and looked at when they ended."""

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from deploy.demo.client import FINAL
from deploy.demo.receiver import CallerBackend
from shared.contracts.manifest import Manifest
from shared.contracts.routing import STAGES
from shared.storage import keys
from shared.storage.minio import MinioStore
from tests.chaos.stand_ins import ROUNDS, Mvs, trail_after
from tests.support.eventually import wait_until

PARTS = [(round, part.name) for round, parts in ROUNDS.items() for part in parts]
_PAUSE_S = 0.3
_BETWEEN_JOBS_S = 1.0


def patiently(api: httpx.Client, method: str, path: str, **arguments: Any) -> httpx.Response:
    """The answer, however often the gateway must be asked: what a caller does whose connection breaks or who is told to wait."""
    while True:
        try:
            answer = api.request(method, path, **arguments)
            if answer.status_code < 500:
                return answer
        except httpx.HTTPError:
            pass
        time.sleep(_PAUSE_S)


def submit(api: httpx.Client, hook: str, first: str = "a") -> str:
    """A job's id, once it is accepted; the idempotency key makes the repeats harmless. `first`: the first photo, see stand_ins.py."""
    body = {"image_urls": [f"http://127.0.0.1/{name}.jpg" for name in (first, "b", "c")], "callback_url": hook}
    answer = patiently(api, "POST", "/api/v1/reconstruct", json=body, headers={"Idempotency-Key": str(uuid.uuid4())})
    return str(answer.raise_for_status().json()["job_id"])


@contextmanager
def under_load(api: httpx.Client, hook: str) -> Iterator[list[str]]:
    """A caller that sends jobs all the time; their ids, more and more of them."""
    job_ids: list[str] = []
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(_BETWEEN_JOBS_S):
            job_ids.append(submit(api, hook))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield job_ids
    finally:
        ended.set()
        sender.join(60)


def unfinished(api: httpx.Client, job_ids: list[str]) -> list[str]:
    """Those of the jobs that have not ended."""
    return [job_id for job_id in job_ids if patiently(api, "GET", f"/api/v1/jobs/{job_id}").json()["status"] not in FINAL]


def status_of(api: httpx.Client, job_id: str, stage: str) -> str:
    """How far a job's stage is."""
    stages = patiently(api, "GET", f"/api/v1/jobs/{job_id}").json()["stages"]
    return str(next(step["status"] for step in stages if step["name"] == stage))


def attempts_of(api: httpx.Client, job_id: str, stage: str) -> int:
    """Counted tries of a job's stage."""
    stages = patiently(api, "GET", f"/api/v1/jobs/{job_id}").json()["stages"]
    return int(next(step["attempts"] for step in stages if step["name"] == stage))


def error_of(api: httpx.Client, job_id: str) -> dict[str, Any]:
    """Why the job failed, once it has."""
    wait_until(lambda: not unfinished(api, [job_id]), timeout_s=120, interval_s=0.2)
    return dict(patiently(api, "GET", f"/api/v1/jobs/{job_id}").json()["error"] or {})


class Webhooks:
    """What a receiver got, by job."""

    def __init__(self, backend: CallerBackend) -> None:
        self._backend = backend
        self.calls: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)  # job -> (webhook id, type)

    def collect(self) -> None:
        """Takes what arrived."""
        while not self._backend.webhooks.empty():
            call = self._backend.webhooks.get()
            assert call.verified
            self.calls[call.payload["job_id"]].append((call.webhook_id, call.payload["type"]))


def faults_of(api: httpx.Client, job_id: str, webhooks: Webhooks, ending: str = "completed") -> list[str]:
    """What is wrong with an ended job as its caller sees it: status, model, deliveries, calls."""
    job = patiently(api, "GET", f"/api/v1/jobs/{job_id}").json()
    deliveries = patiently(api, "GET", f"/api/v1/jobs/{job_id}/webhooks").json()["deliveries"]
    faults = [f"status {job['status']}: {job['error']}"] if job["status"] != ending else []
    if not faults and ending == "completed":
        model = patiently(api, "GET", f"/api/v1/jobs/{job_id}/artifacts/model.glb", follow_redirects=True)
        faults += [] if model.text == trail_after(job_id, STAGES[-1]) else [f"the model is {model.text[:80]!r}"]
    if [(delivery["type"], delivery["status"]) for delivery in deliveries] != [(f"job.{ending}", "delivered")]:
        faults.append(f"deliveries {deliveries}")
    if {webhook_id for webhook_id, _ in webhooks.calls[job_id]} != {delivery["id"] for delivery in deliveries}:
        faults.append(f"calls {webhooks.calls[job_id]}")
    return [f"{job_id} {fault}" for fault in faults]


def is_whole(api: httpx.Client, webhooks: Webhooks, job_id: str, ending: str = "completed") -> None:
    """Waits until the job has ended and told so, and everything about it is right."""
    wait_until(lambda: not unfinished(api, [job_id]), timeout_s=120, interval_s=0.2)
    wait_until(lambda: webhooks.collect() or webhooks.calls[job_id], timeout_s=60, interval_s=0.2)
    wait_until(lambda: not faults_of(api, job_id, webhooks, ending), timeout_s=60, interval_s=0.5)


def completes(api: httpx.Client, backend: CallerBackend, webhooks: Webhooks) -> None:
    """The next job is whole: nothing stands in its way."""
    is_whole(api, webhooks, submit(api, f"{backend.url}/hook"))


async def faults_in_store(store: MinioStore, job_id: str) -> list[str]:
    """What is wrong with a completed job in the store: each step committed once, all of one chain, outputs there, parts joined once."""
    faults, manifests, present = [], [], set(await store.list(keys.job_prefix(job_id)))
    for position, stage in enumerate(STAGES):
        manifest = Manifest.model_validate_json(await store.get(keys.step_manifest(job_id, position, stage)))
        manifests.append(manifest)
        names = {keys.attempt_file(job_id, position, stage, manifest.attempt, output.name) for output in manifest.outputs}
        faults += [f"{job_id} {name} is missing" for name in names - present]
        if manifest.chain != tuple(earlier.link() for earlier in manifests[:-1]):
            faults.append(f"{job_id} {stage} is of another chain")
        if [(link.round, link.part) for link in manifest.parts] != (PARTS if stage == Mvs.name else []):
            faults.append(f"{job_id} {stage} is joined of {manifest.parts}")
    return faults


async def is_purged(store: MinioStore, job_id: str) -> bool:
    """Whether nothing is left of a deleted job but its two marks."""
    return sorted(await store.list(keys.job_prefix(job_id))) == sorted([keys.stop(job_id), keys.deleted(job_id)])
