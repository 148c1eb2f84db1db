"""One attempt of a step: inputs into a workspace, compute, outputs into the store, and the manifest that says so."""

import asyncio
from pathlib import Path

from shared.contracts.manifest import Manifest, StageReport, StepError, digest_of
from shared.contracts.messages import StageMessage
from shared.errors import PermanentError, TransientError
from shared.runtime.commit import upload_outputs
from shared.runtime.compute import Computed, ComputeTask, OnProgress
from shared.runtime.inputs import digest_inputs, fetch, files_needed, read_request, write_context
from shared.runtime.manifests import chain_of
from shared.runtime.metrics import STAGE_DURATION, STAGE_PEAK_MEMORY
from shared.runtime.patience import PatientStore
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
        workspace = await self._tools.folder.new_workspace(self._name)
        try:
            await self._prepare(workspace, previous)
            computed = await self._compute(workspace)
            at_once = self._tools.settings.transfers
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

    async def _prepare(self, workspace: Path, previous: Manifest | None) -> None:
        message = self._message
        info = await self._tools.compute.describe()
        self._chain = await chain_of(self._store, previous)
        request = await read_request(self._store, message)
        files = files_needed(message, request, self._chain, info.needs)
        self._digest = digest_of(info.name, info.version, message.step.params, digest_inputs(message, request, files))
        write_context(workspace, request, self._chain)
        await fetch(self._store, workspace, files, self._tools.settings.transfers, info.name)

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
