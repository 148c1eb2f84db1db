"""What a part of a step and what follows its parts have in common: both start from the split that their message names."""

from shared.contracts.manifest import Manifest
from shared.contracts.messages import StageMessage
from shared.contracts.request import JobRequest
from shared.contracts.split import Split
from shared.errors import MeshworkError
from shared.runtime.attempt import Attempt
from shared.runtime.compute import OnProgress, StageInfo
from shared.runtime.inputs import read_request
from shared.runtime.manifests import attempt_manifest
from shared.runtime.patience import PatientStore
from shared.runtime.splits import Splits, Standing
from shared.runtime.tools import Tools


class OtherVersion(MeshworkError):
    """The step was split by another version of the stage: one that is being replaced, or one that replaces this one."""


class LeftToAnother(MeshworkError):
    """No part is missing, and another delivery means to bring on what follows: this one need only look again whether it did."""


class ShareAttempt(Attempt):
    """Of a message that names a split."""

    def __init__(self, tools: Tools, store: PatientStore, message: StageMessage, on_progress: OnProgress) -> None:
        super().__init__(tools, store, message, on_progress)
        self._splits = Splits(store, message)

    async def _begin(self) -> tuple[StageInfo, Standing]:
        """The stage, and how far the split is. Raises OtherVersion and CorruptInput."""
        info = await self._tools.compute.describe()
        split = await self._split()
        self._links, self._digest = split.chain, split.digest
        if split.stage_version != info.version or split.round not in info.rounds:
            raise OtherVersion(f"split by version {split.stage_version} of {split.stage}, this is {info.version}")
        return info, await self._splits.standing(split)

    def _give_way(self, standing: Standing, closer: str | None) -> None:
        """Raises LeftToAnother where a part that is named before this one has closed the round too."""
        if not standing.over and closer is not None and standing.closer is not None and standing.closer < closer:
            raise LeftToAnother

    async def _split(self) -> Split:
        message = self._message
        name = (message.job_id, message.position, message.split)
        return await self._tools.last_read.get("split", name, lambda: self._splits.read(str(message.split)))

    async def _context(self) -> tuple[JobRequest, tuple[Manifest, ...]]:
        """What was asked, and the manifests of the chain that the step was split with."""
        return await self._tools.last_read.get("context", (self._message.job_id, self._links), self._read_context)

    async def _read_context(self) -> tuple[JobRequest, tuple[Manifest, ...]]:
        request = await read_request(self._store, self._message)
        return request, tuple([await attempt_manifest(self._store, self._message.job_id, link) for link in self._links])
