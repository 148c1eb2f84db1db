"""Where a worker keeps the workspaces of its attempts, and whether there is room for them."""

import errno
import shutil
from pathlib import Path

from shared.errors import ChildDied, DependencyUnavailable
from shared.own_folder import OwnFolder

MIN_FREE_BYTES = 64 << 20  # with less, hardly a step can be computed: it waits until somebody made room
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_FAMILY = "meshwork-work-"


class WorkFolder(OwnFolder):
    """A folder of this worker's own. A worker that starts clears what killed ones of any stage left."""

    def __init__(self, parent: Path | None, stage: str) -> None:
        super().__init__(parent, _FAMILY, f"{stage}-")

    async def new_workspace(self, attempt: str) -> Path:
        """An empty folder for one attempt. Raises DependencyUnavailable while the disk is full."""
        await self.ping()
        workspace = self.path / attempt
        workspace.mkdir()
        return workspace

    def ran_full(self, error: OSError | ChildDied) -> bool:
        """Whether this error is a full disk's: it says so, or a child failed when next to nothing was free."""
        if isinstance(error, OSError):
            return error.errno in _NO_ROOM
        return self._free_bytes() < MIN_FREE_BYTES

    async def ping(self) -> None:
        """Raises DependencyUnavailable while the disk is full."""
        if (free_bytes := self._free_bytes()) < MIN_FREE_BYTES:
            raise DependencyUnavailable(f"the disk of {self.path} is full: {free_bytes >> 20} MiB are free")

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free
