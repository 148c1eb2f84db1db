"""A worker's workspaces, in memory: files on a disk took a run a sixth of its time."""

import asyncio
import zlib
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, cast

from shared.runtime.workfolder import MIN_FREE_BYTES, WorkFolder


class MemoryPath:
    """As much of `Path` as the runtime and the stand-ins use. `files`: of one worker, by their whole path."""

    __slots__ = ("_at", "_files")

    def __init__(self, files: dict[str, bytes], at: str) -> None:
        self._files = files
        self._at = at

    def __truediv__(self, name: object) -> "MemoryPath":
        return MemoryPath(self._files, f"{self._at}/{name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MemoryPath) and self._at == other._at

    def __lt__(self, other: "MemoryPath") -> bool:
        return self._at < other._at

    def __hash__(self) -> int:
        return hash(self._at)

    def __str__(self) -> str:
        return self._at

    @property
    def parent(self) -> "MemoryPath":
        return MemoryPath(self._files, self._at.rpartition("/")[0])

    def relative_to(self, root: "MemoryPath") -> PurePosixPath:
        return PurePosixPath(self._at.removeprefix(f"{root._at}/"))

    def rglob(self, pattern: str) -> list["MemoryPath"]:
        """`pattern`: the name of a file, or all."""
        below = [at for at in self._files if at.startswith(f"{self._at}/")]
        return [MemoryPath(self._files, at) for at in below if pattern == "*" or at.endswith(f"/{pattern}")]

    def is_file(self) -> bool:
        return self._at in self._files

    def is_symlink(self) -> bool:
        return False

    def resolve(self) -> "MemoryPath":
        return self

    def stat(self) -> SimpleNamespace:
        """As if every content had a time of its own."""
        data = self._files[self._at]
        return SimpleNamespace(st_ino=0, st_size=len(data), st_mtime_ns=zlib.crc32(data))

    def mkdir(self, **_: object) -> None:
        """Folders are where files are."""

    def write_bytes(self, data: bytes) -> None:
        self._files[self._at] = data

    def write_text(self, text: str) -> None:
        self._files[self._at] = text.encode()

    def read_bytes(self) -> bytes:
        if self._at not in self._files:
            raise FileNotFoundError(self._at)
        return self._files[self._at]

    def read_text(self) -> str:
        return self.read_bytes().decode()


class SimulatedFolder(WorkFolder):
    """Nobody else looks at it, and it ends with its process."""

    def __init__(self, name: str) -> None:
        super().__init__(None, name)
        self._files: dict[str, bytes] = {}
        self.path = cast(Path, MemoryPath(self._files, name))

    async def discard(self, workspace: Path) -> None:
        """As a thread would."""
        await asyncio.sleep(0)
        below = cast(Any, workspace).rglob("*")
        for path in below:
            del self._files[str(path)]

    def _open(self) -> None:
        pass

    def _free_bytes(self) -> int:
        return 2 * MIN_FREE_BYTES
