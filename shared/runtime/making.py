"""One attempt of a step: inputs into a workspace, compute, outputs into the store, and the manifest that says so.

A step of a retried job whose digest is unchanged is copied from that job instead.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from shared.contracts.manifest import Manifest, StageReport, StepError, digest_of
from shared.contracts.messages import StageMessage
from shared.contracts.request import JobRequest
from shared.errors import PermanentError, TransientError
from shared.runtime.commit import upload_outputs
from shared.runtime.compute import Computed, ComputeTask, OnProgress
from shared.runtime.inputs import InputFile, digest_inputs, fetch, files_needed, read_request, write_context
from shared.runtime.manifests import chain_of
from shared.runtime.metrics import STAGE_DURATION, STAGE_PEAK_MEMORY, STEPS_REUSED
from shared.runtime.patience import PatientStore
from shared.runtime.reuse import copy_step
from shared.runtime.tools import Tools


class Attempt:
    """A delivery's own attempt, under a random prefix that nobody else writes to."""

    def __init__(self, tools: Tools, store: PatientStore, message: StageMessage, on_progress: OnProgress) -> None:
        self._tools = tools
        self._store = store
        self._message = message
        self._on_progress = on_progress
        self._name = tools.new_id()
        self._chain: tuple[Manifest, ...] = ()
        self._digest = ""
        self._seconds = 0.0

    async def make(self, previous: Manifest | None) -> Manifest:
        """Computes the step from the previous step's manifest; its own is not written yet. Cancelling it ends the child."""
        request, files = await self._plan(previous)
        if (reused := await self._reused(request)) is not None:
            return reused
        workspace = await self._tools.folder.new_workspace(self._name)
        at_once = self._tools.settings.transfers
        try:
            write_context(workspace, request, self._chain)
            await fetch(self._store, workspace, files, at_once, self._message.step.stage)
            computed = await self._compute(workspace)
            outputs = await upload_outputs(self._store, self._message, self._name, workspace / "outputs", at_once)
        finally:
            await self._tools.folder.discard(workspace)
        manifest = await self._manifest(computed.report)
        return manifest.model_copy(update={"outputs": outputs, "peak_memory_bytes": computed.peak_memory_bytes})

    async def failure(self, error: PermanentError) -> Manifest:
        """The manifest of an attempt that failed for good."""
        report = error.report if isinstance(error.report, StageReport) else StageReport()
        manifest = await self._manifest(report)
        step_error = StepError(code=error.code, message=error.message, hint=error.hint, retryable=error.retryable)
        return manifest.model_copy(update={"error": step_error})

    async def _plan(self, previous: Manifest | None) -> tuple[JobRequest, Sequence[InputFile]]:
        message = self._message
        info = await self._tools.compute.describe()
        self._chain = await chain_of(self._store, previous)
        request = await read_request(self._store, message)
        files = files_needed(message, request, self._chain, info.needs)
        self._digest = digest_of(info.name, info.version, message.step.params, digest_inputs(message, request, files))
        return request, files

    async def _reused(self, request: JobRequest) -> Manifest | None:
        """The step as the retried job has it. A damaged input may have come from there: then it is computed."""
        if request.parent is None or self._message.corrupt_findings:
            return None
        at_once = self._tools.settings.transfers
        found = await copy_step(self._store, self._message, request.parent, self._digest, self._name, at_once)
        if found is None:
            return None
        STEPS_REUSED.labels(self._message.step.stage).inc()
        manifest = await self._manifest(found.report)
        return manifest.model_copy(update={"outputs": found.outputs, "reused_from": request.parent})

    async def _compute(self, workspace: Path) -> Computed:
        message, step = self._message, self._message.step
        task = ComputeTask(workspace, step.params, step.hard_limit_s, step.memory_limit_bytes, message.reduction, message.attempt)
        loop = asyncio.get_running_loop()
        started, outcome = loop.time(), "cancelled"
        try:
            computed = await self._tools.compute.run(task, self._on_progress)
            outcome = "completed"
        except (PermanentError, TransientError) as error:
            outcome = error.code
            raise
        finally:
            self._seconds = loop.time() - started
            STAGE_DURATION.labels(step.stage, outcome).observe(self._seconds)
        STAGE_PEAK_MEMORY.labels(step.stage).observe(computed.peak_memory_bytes)
        return computed

    async def _manifest(self, report: StageReport) -> Manifest:
        message, info = self._message, await self._tools.compute.describe()
        return Manifest(
            job_id=message.job_id,
            step=message.step.name,
            position=message.position,
            stage=message.step.stage,
            stage_version=info.version,
            attempt=self._name,
            chain=tuple(manifest.link() for manifest in self._chain),
            digest=self._digest,
            report=report,
            seconds=self._seconds,
            tries=message.attempt,
            reduction=message.reduction,
            finished_at=self._tools.now(),
        )
