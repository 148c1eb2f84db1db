"""Where a worker keeps the workspaces of its attempts, and how it clears away those of workers that were killed."""

import fcntl
import shutil
import tempfile
from pathlib import Path

from loguru import logger

_PREFIX = "meshwork-work-"
_LOCK = "lock"


class WorkFolder:
    """A folder of this worker's own, held by a file lock: whoever can take the lock knows that its worker is gone."""

    def __init__(self, parent: Path | None, stage: str) -> None:
        parent = parent or Path(tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(parent)
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{stage}-", dir=parent))
        self._lock = (self.path / _LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def new_workspace(self, attempt: str) -> Path:
        """An empty folder for one attempt."""
        workspace = self.path / attempt
        workspace.mkdir()
        return workspace

    def remove(self) -> None:
        """Removes everything."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _clear_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                logger.info("removed {}, left by a worker that was killed", folder.name)
        except OSError:  # in use, another user's, or not yet locked
            continue
