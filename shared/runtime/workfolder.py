"""Where a worker keeps the workspaces of its attempts, and how it clears away those of workers that were killed."""

import asyncio
import errno
import fcntl
import shutil
import tempfile
from pathlib import Path
from typing import IO

from loguru import logger

from shared.errors import ChildDied, DependencyUnavailable

MIN_FREE_BYTES = 64 << 20  # with less, hardly a step can be computed: it waits until somebody made room
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_PREFIX = "meshwork-work-"
_LOCK = "lock"


class WorkFolder:
    """A folder of this worker's own, held by a file lock: whoever can take the lock knows that its worker is gone."""

    def __init__(self, parent: Path | None, stage: str) -> None:
        self._parent = parent or Path(tempfile.gettempdir())
        self._stage = stage
        self._lock: IO[str] | None = None
        self.path = self._parent

    async def open(self) -> None:
        """Makes the folder, and removes those that killed workers left beside it."""
        await asyncio.to_thread(self._open)

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

    async def discard(self, workspace: Path) -> None:
        """Removes a workspace."""
        await asyncio.to_thread(shutil.rmtree, workspace, ignore_errors=True)

    async def close(self) -> None:
        """Removes everything."""
        if self._lock is not None:
            await self.discard(self.path)
            self._lock.close()
            self._lock = None

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    def _open(self) -> None:
        self._parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(self._parent)
        unlocked = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}{self._stage}-", dir=self._parent))
        self._lock = (unlocked / _LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.path = unlocked.rename(unlocked.with_name(unlocked.name.removeprefix(".")))  # seen by others only when it is locked


def _clear_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                logger.info("removed {}, left by a worker that was killed", folder.name)
        except OSError:  # in use, or another user's
            continue
