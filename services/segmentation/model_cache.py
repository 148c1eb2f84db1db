"""Models that callers gave by URL, kept for the next attempts."""

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelCache:
    """Files by their sha256, in a folder that all workers of a work folder share: at most `max_bytes`, and half of the disk's room.

    What was not used for longest goes first. Nobody reads from the folder: who takes a model has a hard link of his own, which
    neither a removal nor another file under the same name changes. Where there are no hard links nothing is kept.
    """

    folder: Path
    max_bytes: int

    def take(self, sha256: str, path: Path) -> bool:
        """Makes `path` the model, if it is there and unchanged."""
        kept = self.folder / sha256
        try:
            os.link(kept, path)
        except OSError:
            return False
        if sha256_of(path) != sha256:
            path.unlink()
            kept.unlink(missing_ok=True)
            return False
        os.utime(path)
        return True

    def keep(self, sha256: str, path: Path) -> None:
        """Keeps the model at `path`, whose sha256 was compared, and removes what is too much. Nothing is kept where the folder refuses."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # another attempt kept it meanwhile
                os.link(path, self.folder / sha256)
            self._remove_what_is_too_much()

    def _remove_what_is_too_much(self) -> None:
        kept = self._kept()
        left = min(self.max_bytes, (shutil.disk_usage(self.folder).free + sum(size for _, size, _ in kept)) // 2)
        for _, size, file in kept:
            left -= size
            if left < 0:
                file.unlink(missing_ok=True)

    def _kept(self) -> list[tuple[float, int, Path]]:
        """When each file was last used, in seconds, its bytes, and its path; the last one first."""
        found = []
        for file in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another worker removed it
                stat = file.stat()
                found.append((stat.st_mtime, stat.st_size, file))
        return sorted(found, reverse=True)


def sha256_of(path: Path) -> str:
    """In hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
