"""Facts folded into a job's row, whatever order they arrive in and however often.

Statuses move only forward, numbers merge by max, verdicts on photos by rank, warnings as a set. The last step's manifest names
the attempt of every step before it: with them, whatever is missing is filled in. Once a job has ended, what its webhook told stays.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

from gateway.database.engine import Rows
from gateway.database.models import Job, StepRow
from gateway.database.records import UNFINISHED
from gateway.endings import Ending, end_job, failed, failed_with
from gateway.links import Links
from gateway.news import StepDied
from gateway.webhook_bodies import add_webhook
from shared.contracts.artifacts import ARTIFACTS
from shared.contracts.events import StageCompleted, StageFailed, StageProgress, StageStarted
from shared.contracts.manifest import EXPANDED, ImageVerdict, Manifest, StageReport
from shared.contracts.slip import RoutingSlip, job_progress
from shared.storage import keys

Manifests = Mapping[str, Manifest]  # by key; what could not be read is not in it
StepFact = StageStarted | StageProgress | StageCompleted | StageFailed | StepDied

_VERDICT_RANK = {"pending": 0, "accepted": 1, EXPANDED: 2, "registered": 3, "dropped": 4}
_MAX_MESSAGE = 500
_MAX_WARNINGS = 200


class JobFold:
    """One locked job and its steps, taking facts in."""

    def __init__(self, rows: Rows, job: Job, steps: Sequence[StepRow], links: Links, manifests: Manifests) -> None:
        self._rows = rows
        self._job = job
        self._steps = steps
        self._links = links
        self._manifests = manifests
        self._slip = RoutingSlip.model_validate(job.slip)

    async def take(self, fact: StepFact) -> None:
        """Folds one fact in."""
        step = self._step(fact.step)
        self._job.last_news_at = self._rows.now
        if isinstance(fact, StepDied):
            await self._die(fact, step)
        elif step is None:
            return
        elif isinstance(fact, StageCompleted):
            await self._complete(fact, step)
        elif isinstance(fact, StageFailed):
            await self._fail(fact, step)
        else:
            await self._move(fact, step)

    def _step(self, name: str) -> StepRow | None:
        return next((step for step in self._steps if step.name == name), None) or next((s for s in self._steps if s.stage == name), None)

    @property
    def _unfinished(self) -> bool:
        return self._job.status in UNFINISHED

    async def _move(self, fact: StageStarted | StageProgress, step: StepRow) -> None:
        fraction = fact.fraction if isinstance(fact, StageProgress) else 0.0
        step.attempts = max(step.attempts, fact.attempt)
        if self._unfinished:
            await self._begin(step)
        if fraction > step.fraction:
            if isinstance(fact, StageProgress) and self._job.stage == step.name:
                self._job.message = _plain(fact.message)
            self._advance(step, fraction)

    async def _begin(self, step: StepRow) -> None:
        """The job is being worked on, at this step."""
        job = self._job
        if step.status == "pending":
            step.status = "processing"
            job.version += 1
        current = self._step(job.stage) if job.stage else None
        if current is None or current.position < step.position:
            job.stage, job.version = step.name, job.version + 1
        if job.status == "queued":
            job.status, job.started_at, job.version = "processing", self._rows.now, job.version + 1
            await add_webhook(self._rows, job, "job.started", self._links)

    def _advance(self, step: StepRow, fraction: float) -> None:
        step.fraction = max(step.fraction, min(fraction, 1.0))
        progress = job_progress(self._slip, step.position, step.fraction)
        if progress > self._job.progress:
            self._job.progress, self._job.version = progress, self._job.version + 1

    async def _complete(self, fact: StageCompleted, step: StepRow) -> None:
        manifest = self._manifests.get(fact.manifest)
        step.attempts = max(step.attempts, fact.attempt)
        if self._slip.is_last(step.position):
            await self._complete_job(manifest, step)
        else:
            await self._complete_step(step, manifest, fact.manifest)

    async def _complete_step(self, step: StepRow, manifest: Manifest | None, key: str) -> None:
        self._take_numbers(step, manifest)
        step.manifest = step.manifest or key
        if self._job.status == "completed":
            return  # decided by the last manifest's own chain
        if self._unfinished:
            await self._begin(step)
        if step.status in ("pending", "processing", "cancelled"):
            step.status, self._job.version = "completed", self._job.version + 1
        self._advance(step, 1.0)
        if manifest is not None:
            self._take_report(manifest.report)
        if self._unfinished:
            await add_webhook(self._rows, self._job, "stage.completed", self._links, step.name)

    async def _complete_job(self, manifest: Manifest | None, last: StepRow) -> None:
        if not self._unfinished:
            self._take_numbers(last, manifest)
            return
        if manifest is None:  # told, but not there: only a damaged store does that
            await self._end(failed("ARTIFACT_CORRUPT", last.name))
            return
        if manifest.error is not None:
            await self._end(failed_with(manifest.error, last.name))
            return
        await self._complete_chain(manifest)
        await self._complete_step(last, manifest, _key_of(manifest))
        self._take_verdicts_afresh(manifest)
        await self._end(Ending("completed", None, artifacts_of(manifest), finite(manifest.report.job_report or {})))

    async def _complete_chain(self, manifest: Manifest) -> None:
        """Every step that this manifest was computed from has completed, whether or not we were told."""
        for link in manifest.chain:
            step = self._step(link.step)
            if step is not None:
                key = keys.attempt_manifest(self._job.id, link.position, link.step, link.attempt)
                await self._complete_step(step, self._manifests.get(key), key)
                step.manifest = key

    async def _fail(self, fact: StageFailed, step: StepRow) -> None:
        manifest = self._manifests.get(fact.manifest)
        step.attempts = max(step.attempts, fact.attempt)
        self._take_numbers(step, manifest)
        if self._job.status == "completed":
            return
        if self._unfinished:
            await self._begin(step)
        if manifest is not None:
            await self._complete_chain(manifest)
            self._take_report(manifest.report)
        error = manifest.error if manifest else None
        await self._end(failed_with(error, step.name) if error else failed("INTERNAL", step.name))

    async def _die(self, fact: StepDied, step: StepRow | None) -> None:
        if self._unfinished and step is not None:
            await self._begin(step)
        await self._end(failed(fact.code, step.name if step else None, _plain(fact.reason)))

    async def _end(self, ending: Ending) -> None:
        if self._unfinished:
            await end_job(self._rows, self._job, self._steps, ending, self._links)

    def _take_numbers(self, step: StepRow, manifest: Manifest | None) -> None:
        if manifest is not None:
            step.attempts = max(step.attempts, manifest.tries)
            step.seconds = max(step.seconds, manifest.seconds)

    def _take_report(self, report: StageReport) -> None:
        """Not once the job has ended: its webhook has told what GET says from then on."""
        if not self._unfinished:
            return
        images, warnings = merge_verdicts(self._job.images, report.images), merge_warnings(self._job.warnings, report)
        if (images, warnings) != (self._job.images, self._job.warnings):
            self._job.images, self._job.warnings, self._job.version = images, warnings, self._job.version + 1

    def _take_verdicts_afresh(self, last: Manifest) -> None:
        """Verdicts of this chain alone: an attempt that lost may have placed other photos."""
        found = [self._manifests.get(keys.attempt_manifest(self._job.id, link.position, link.step, link.attempt)) for link in last.chain]
        if all(manifest is not None for manifest in found):
            images = [{**image, "status": "pending", "reason": None} for image in self._job.images if "source" not in image]
            for manifest in (*found, last):
                images = merge_verdicts(images, manifest.report.images if manifest else ())
            self._job.images = images


def _key_of(manifest: Manifest) -> str:
    return keys.attempt_manifest(manifest.job_id, manifest.position, manifest.step, manifest.attempt)


def chain_keys(manifest: Manifest) -> list[str]:
    """Keys of the manifests that this one was computed from."""
    return [keys.attempt_manifest(manifest.job_id, link.position, link.step, link.attempt) for link in manifest.chain]


def merge_verdicts(images: Sequence[dict[str, Any]], verdicts: Iterable[ImageVerdict]) -> list[dict[str, Any]]:
    """Each photo with the verdict of the highest rank; of two reasons the first in the alphabet, so that order does not matter.

    What came out of an archive or a video follows it, once ingest has told; what was told of such photos before is filled in at the end.
    """
    by_name = {image["name"]: image for image in images}
    for verdict in verdicts:
        if verdict.source in by_name:
            found = {"name": verdict.name, "status": "pending", "reason": None, "source": verdict.source}
            by_name.setdefault(verdict.name, found)
        image = by_name.get(verdict.name)
        if image is None or verdict.status not in _VERDICT_RANK:
            continue
        if _standing(verdict.status, verdict.reason) > _standing(image["status"], image["reason"]):
            by_name[verdict.name] = {**image, "status": verdict.status, "reason": verdict.reason}
    return _after_their_sources(list(by_name.values()))


def _after_their_sources(images: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    out_of: dict[str, list[dict[str, Any]]] = {}
    for image in images:
        out_of.setdefault(image.get("source", ""), []).append(image)
    return [image for sent in out_of.get("", ()) for image in (sent, *out_of.get(sent["name"], ()))]


def _standing(status: str, reason: str | None) -> tuple[int, list[int]]:
    return _VERDICT_RANK[status], [-ord(letter) for letter in reason or ""]


def merge_warnings(warnings: Sequence[dict[str, str]], report: StageReport) -> list[dict[str, str]]:
    """Each warning once, in an order that does not depend on when it came."""
    found = {(w["code"], w["message"], w.get("hint", "")) for w in warnings}
    found |= {(w.code, _plain(w.message), _plain(w.hint)) for w in report.warnings}
    return [{"code": code, "message": message, "hint": hint} for code, message, hint in sorted(found)[:_MAX_WARNINGS]]


def artifacts_of(manifest: Manifest) -> list[dict[str, Any]]:
    """What the last step made for callers, with the keys of the winning attempt."""
    outputs = {output.name: output for output in manifest.outputs}
    return [
        {
            "name": name,
            "format": kind,
            "bytes": outputs[name].bytes,
            "sha256": outputs[name].sha256,
            "key": keys.attempt_file(manifest.job_id, manifest.position, manifest.step, manifest.attempt, name),
        }
        for name, (kind, _) in ARTIFACTS.items()
        if name in outputs
    ]


def finite(value: Any) -> Any:
    """The JSON value with NaN and infinities as null: no JSON reader has to know them."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _plain(text: str) -> str:
    """As a database takes it: no NUL, not endless."""
    return text.replace("\0", "")[:_MAX_MESSAGE]
