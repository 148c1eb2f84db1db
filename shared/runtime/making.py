"""A whole step: copied from the job that is retried where its digest is unchanged, divided into parts where that pays, else computed."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import count

from shared.contracts.manifest import Manifest, digest_of
from shared.contracts.request import JobRequest
from shared.runtime.attempt import Onward
from shared.runtime.compute import StageInfo
from shared.runtime.inputs import InputFile, digest_inputs, files_needed, read_request
from shared.runtime.manifests import chain_of
from shared.runtime.metrics import STEPS_REUSED
from shared.runtime.reuse import copy_step
from shared.runtime.scatter import Division, ScatteringAttempt
from shared.runtime.splits import Splits, brought_on_by

MIN_PARTS = 2  # of a first round: fewer are computed where the step was taken


class StepAttempt(ScatteringAttempt):
    """Of a message that names no split."""

    _chain: tuple[Manifest, ...] = ()

    async def make(self, previous: Manifest | None) -> Manifest | Onward:
        """As `Attempt` says."""
        info = await self._tools.compute.describe()
        self._chain = await chain_of(self._store, previous)
        self._links = tuple(manifest.link() for manifest in self._chain)
        request, files = await self._plan(info)
        if (reused := await self._reused(request)) is not None:
            return reused
        if _may_be_divided(info, files) and (scattered := await self._scattered(info, request)) is not None:
            return scattered
        return await self._made(request, files)

    async def _scattered(self, info: StageInfo, request: JobRequest) -> Onward | None:
        """None where dividing the step is not worth it."""
        splits = Splits(self._store, self._message)
        for generation in count(self._message.generation):
            id = splits.first_id(self._links, self._digest, generation)
            if (found := await splits.find(id)) is None:
                break
            standing = await splits.latest(found)
            if not standing.replaced:
                return Onward(brought_on_by(standing, self._message), "scattered_again")
        split = await self._divide(Division(id, info.rounds[0], generation), info, request, self._chain)
        if len(split.parts) < MIN_PARTS:
            return None
        return Onward(brought_on_by(await splits.commit(split), self._message), "scattered")

    async def _plan(self, info: StageInfo) -> tuple[JobRequest, Sequence[InputFile]]:
        message = self._message
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

    async def _made(self, request: JobRequest, files: Sequence[InputFile]) -> Manifest:
        async with self._workspace(request, self._chain, files) as workspace:
            computed, outputs = await self._outputs(workspace)
        manifest = await self._manifest(computed.report)
        return manifest.model_copy(update={"outputs": outputs, "peak_memory_bytes": computed.peak_memory_bytes})


def _may_be_divided(info: StageInfo, files: Sequence[InputFile]) -> bool:
    """Whether the stage is asked: most steps are told by their number of inputs."""
    pattern, least = info.least_inputs
    return bool(info.rounds) and sum(fnmatchcase(file.name, pattern) for file in files) >= least
