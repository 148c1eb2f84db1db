"""A folder of one process's own inside one that many share, and how those that killed processes left are cleared away."""

import asyncio
import fcntl
import shutil
import tempfile
import threading
from pathlib import Path
from typing import IO

from loguru import logger

_LOCK = "lock"


class OwnFolder:
    """Held by a file lock: whoever can take the lock knows that its process is gone.

    Its name begins with `family`, which all that are cleared together have in common, and with `name`. `parent`: None for the system's
    temporary folder.
    """

    def __init__(self, parent: Path | None, family: str, name: str = "") -> None:
        self._parent = parent or Path(tempfile.gettempdir())
        self._family = family
        self._name = name
        self._opening = threading.Lock()
        self._lock: IO[str] | None = None
        self.path = self._parent

    async def clear(self) -> None:
        """Removes those of the family that killed processes left."""
        await asyncio.to_thread(_clear_abandoned, self._parent, self._family)

    async def open(self) -> None:
        """Makes the folder, once, and removes those that killed processes left beside it. Raises OSError."""
        await asyncio.to_thread(self._open)

    async def close(self) -> None:
        """Removes everything."""
        if self._lock is not None:
            await self.discard(self.path)
            self._lock.close()
            self._lock = None

    async def discard(self, folder: Path) -> None:
        """Removes a folder in it."""
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _open(self) -> None:
        with self._opening:
            if self._lock is None:
                self._parent.mkdir(parents=True, exist_ok=True)
                _clear_abandoned(self._parent, self._family)
                self._make()

    def _make(self) -> None:
        unlocked = Path(tempfile.mkdtemp(prefix=f".{self._family}{self._name}", dir=self._parent))
        try:
            lock = (unlocked / _LOCK).open("w")
        except OSError:
            unlocked.rmdir()
            raise
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.path = unlocked.rename(unlocked.with_name(unlocked.name.removeprefix(".")))  # seen by others only when it is locked
        self._lock = lock


def _clear_abandoned(parent: Path, family: str) -> None:
    for folder in parent.glob(f"{family}*"):
        try:
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                logger.info("removed {}, left by a process that was killed", folder.name)
        except OSError:  # in use, or another user's
            continue
