"""What one delivery makes of a step, or of a share of it: under a random prefix that nobody else writes to."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.contracts.manifest import ChainLink, Manifest, OutputFile, StageReport, StepError, Warning
from shared.contracts.messages import StageMessage
from shared.contracts.request import JobRequest
from shared.errors import CODES, ChildDied, DiskFull, PermanentError, TransientError
from shared.runtime.compute import Ask, Computed, ComputeTask, OnFinished, OnProgress
from shared.runtime.inputs import InputFile, fetch, write_context
from shared.runtime.metrics import STAGE_DURATION, STAGE_PEAK_MEMORY
from shared.runtime.outputs import Outputs
from shared.runtime.patience import DISK, PatientStore
from shared.runtime.tools import Tools
from shared.storage import keys


@dataclass(frozen=True)
class Onward:
    """The step is not made yet: these messages bring it on. Nothing else is left to do but to put `mark`, once they are published."""

    messages: tuple[StageMessage, ...]
    settlement: str
    mark: str | None = None


async def _ignore(fraction: float, sentence: str) -> None:
    pass


def _not_kept(name: str) -> None:
    pass


class Attempt:
    """A delivery's own attempt. `make` gives the manifest that the step may be committed with, or what brings the step on."""

    def __init__(self, tools: Tools, store: PatientStore, message: StageMessage, on_progress: OnProgress) -> None:
        self._tools = tools
        self._store = store
        self._message = message
        self._on_progress = on_progress
        self._name = tools.new_id()
        self._links: tuple[ChainLink, ...] = ()
        self._digest = ""
        self._seconds = 0.0

    async def make(self, previous: Manifest | None) -> Manifest | Onward:
        """`previous`: of the step before, for whole steps. It does not commit the step. Cancelling it ends the child."""
        raise NotImplementedError

    async def failure(self, error: PermanentError) -> Manifest:
        """The manifest of an attempt that failed for good."""
        report = error.report if isinstance(error.report, StageReport) else StageReport()
        manifest = await self._manifest(report)
        step_error = StepError(code=error.code, message=error.message, hint=error.hint, retryable=error.retryable)
        return manifest.model_copy(update={"error": step_error})

    @asynccontextmanager
    async def _workspace(self, request: JobRequest, chain: Sequence[Manifest], files: Sequence[InputFile]) -> AsyncIterator[Path]:
        """A folder with these inputs, until the end; waits for room on the disk. Raises DiskFull when it filled up meanwhile."""
        folder = self._tools.folder
        workspace = await self._store.patience.call(DISK, lambda: folder.new_workspace(self._name))
        try:
            write_context(workspace, request, chain)
            await self._fetch(workspace, files)
            yield workspace
        except (OSError, ChildDied) as error:
            if folder.ran_full(error):
                raise DiskFull(f"the disk of {workspace} filled up: {error}") from error
            raise
        finally:
            await folder.discard(workspace)

    async def _fetch(self, workspace: Path, files: Sequence[InputFile]) -> None:
        await fetch(self._store, workspace, files, self._tools.settings.transfers, self._message.step.stage)

    async def _outputs(self, workspace: Path, ask: Ask = "run", round: str = "", part: str = "") -> tuple[Computed, tuple[OutputFile, ...]]:
        """Computes, and uploads what that makes."""
        at_once, stage = self._tools.settings.transfers, self._message.step.stage
        async with Outputs(self._store, workspace / "outputs", self._output_key, at_once, stage) as outputs:
            computed = await self._compute(workspace, ask, round, part, outputs.finished)
            return computed, await outputs.upload()

    def _output_key(self, name: str) -> str:
        return keys.attempt_file(self._message.job_id, self._message.position, self._message.step.name, self._name, name)

    async def _progress(self, fraction: float, sentence: str) -> None:
        """What the child tells."""
        await self._on_progress(fraction, sentence)

    async def _compute(self, workspace: Path, ask: Ask, round: str, part: str = "", on_finished: OnFinished = _not_kept) -> Computed:
        message, step = self._message, self._message.step
        limits = (step.hard_limit_s, step.memory_limit_bytes)
        task = ComputeTask(workspace, step.params, *limits, message.reduction, message.attempt, ask, round, part)
        loop, on_progress = asyncio.get_running_loop(), _ignore if ask == "split" else self._progress
        self._store.patience.extend(step.hard_limit_s)  # what is computed would be lost if the message were put aside
        started, outcome = loop.time(), "cancelled"
        try:
            computed = await self._tools.compute.run(task, on_progress, on_finished)
            outcome = "completed"
        except (PermanentError, TransientError) as error:
            outcome = error.code
            raise
        finally:
            self._seconds += loop.time() - started
            STAGE_DURATION.labels(step.stage, outcome).observe(loop.time() - started)
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
            chain=self._links,
            digest=self._digest,
            report=_with_reduction(report, message) if message.reduction else report,
            seconds=self._seconds,
            tries=message.attempt,
            reduction=message.reduction,
            finished_at=self._tools.now(),
        )


def _with_reduction(report: StageReport, message: StageMessage) -> StageReport:
    sentence = f"The step {message.step.name} ran out of memory, and was computed again at a lower resolution."
    warning = Warning(code="LOWER_RESOLUTION", message=sentence, hint=CODES["OUT_OF_MEMORY"].hint)
    return report.model_copy(update={"warnings": (*report.warnings, warning)})
