"""Artifacts in a folder: the embedded twin of an S3 bucket, with the same semantics.

Every object is written under a temporary name, flushed to the disk and renamed, so that a reader, or a process killed at any moment, sees
the old bytes or the new ones. An error of the folder (full, read-only, gone) is the store's: DependencyUnavailable. One of the caller's own
file (a full disk while downloading, a file that is not there) stays an OSError.
"""

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO

from shared.errors import DependencyUnavailable, ObjectCorrupt, ObjectMissing
from shared.ports import StoredFile
from shared.storage import keys
from shared.storage.hashing import CHUNK_BYTES, HashingReader, in_large_chunks, saved, temporary_beside

_INCOMING = ".incoming"  # keys never begin with a dot
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_RENAME_TRIES = 100  # a deleter may remove the folder, empty, between its making and the rename into it


class DirectoryStore:
    """An ArtifactStore on a local folder, for one machine.

    store = DirectoryStore(Path("data/artifacts"))
    await store.prepare()
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    async def prepare(self, retention: timedelta | None = None) -> None:
        """Makes the folder and removes what killed writers left. `retention` is the bucket's business: here the gateway alone purges."""
        await asyncio.to_thread(self._prepare)

    async def close(self) -> None:
        """Nothing is held open."""

    async def put(self, key: str, data: bytes, content_type: str = "application/json") -> None:
        """Writes the whole object."""
        await asyncio.to_thread(self._write, key, [data])

    async def get(self, key: str, max_bytes: int = 64 << 20) -> bytes:
        """The whole object. Raises ObjectCorrupt when it is larger than `max_bytes`."""
        return await asyncio.to_thread(self._get, key, max_bytes)

    async def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""
        path = self._path(key)
        return await asyncio.to_thread(path.is_file)

    async def upload(self, path: Path, key: str, content_type: str) -> StoredFile:
        """Writes a file and returns its size and sha256."""
        return await asyncio.to_thread(self._upload, path, key)

    async def upload_stream(self, chunks: AsyncIterator[bytes], key: str, content_type: str) -> StoredFile:
        """Writes what comes in, without holding it in memory. What breaks off leaves nothing."""
        path, digest, size = self._path(key), hashlib.sha256(), 0
        incoming = await asyncio.to_thread(self._new_incoming)
        try:
            await asyncio.to_thread(_append, incoming, b"")
            async for chunk in in_large_chunks(chunks):
                digest.update(chunk)
                size += len(chunk)
                await asyncio.to_thread(_append, incoming, chunk)
            await asyncio.to_thread(self._commit, incoming, path)
        finally:
            incoming.unlink(missing_ok=True)
        return StoredFile(key, size, digest.hexdigest())

    async def download(self, key: str, path: Path, sha256: str | None = None) -> int:
        """Writes the object to `path` (parents made, atomically) and returns its size. Raises ObjectCorrupt when the sha256 differs."""
        return await asyncio.to_thread(self._download, key, path, sha256)

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """The object in chunks."""
        file = await asyncio.to_thread(self._open, key)
        with file:
            while chunk := await asyncio.to_thread(_read, file, key):
                yield chunk

    async def copy(self, source: str, target: str) -> None:
        """Copies one object to another key."""
        await asyncio.to_thread(self._copy, source, target)

    async def list(self, prefix: str) -> Sequence[str]:
        """Every key below a prefix, sorted."""
        return await asyncio.to_thread(self._list, prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        """Removes keys, and folders that became empty; those that are not there are no error."""
        await asyncio.to_thread(self._delete, keys)

    async def presign(self, key: str, expires: timedelta, filename: str, content_type: str) -> str | None:
        """None: a folder has no HTTP surface."""
        return None

    async def ping(self) -> None:
        """Raises DependencyUnavailable unless the folder can be written."""
        if not await asyncio.to_thread(os.access, self._root, os.W_OK):
            raise DependencyUnavailable("the artifact folder is not there or cannot be written")

    def _path(self, key: str) -> Path:
        return self._root / keys.checked(key)

    def _prepare(self) -> None:
        with _writing():
            shutil.rmtree(self._root / _INCOMING, ignore_errors=True)
            self._root.mkdir(parents=True, exist_ok=True)

    def _new_incoming(self) -> Path:
        with _writing():
            return temporary_beside(self._root / _INCOMING / "object")

    def _open(self, key: str) -> IO[bytes]:
        path = self._path(key)
        with _reading(key):
            return path.open("rb")

    def _write(self, key: str, chunks: Iterable[bytes]) -> None:
        path, incoming = self._path(key), self._new_incoming()
        try:
            _append(incoming, b"")
            for chunk in chunks:
                _append(incoming, chunk)
            self._commit(incoming, path)
        finally:
            incoming.unlink(missing_ok=True)

    def _commit(self, incoming: Path, path: Path) -> None:
        with _writing():
            _sync(incoming)
            for _ in range(_RENAME_TRIES):
                with suppress(FileNotFoundError, FileExistsError):  # mkdir reports a folder removed beside it as existing
                    path.parent.mkdir(parents=True, exist_ok=True)
                    incoming.replace(path)
                    break
            else:
                raise DependencyUnavailable("the artifact folder is being removed")
            for folder in path.parents[: len(path.relative_to(self._root).parts)]:
                with suppress(FileNotFoundError):
                    _sync(folder)

    def _get(self, key: str, max_bytes: int) -> bytes:
        with self._open(key) as file, _reading(key):
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise ObjectCorrupt(key)
        return data

    def _upload(self, path: Path, key: str) -> StoredFile:
        with path.open("rb") as source:
            reader = HashingReader(source)
            self._write(key, iter(lambda: reader.read(CHUNK_BYTES), b""))
        return StoredFile(key, reader.bytes_read, reader.sha256)

    def _download(self, key: str, path: Path, sha256: str | None) -> int:
        with self._open(key) as source:
            return saved(source, _read, key, path, sha256)

    def _copy(self, source: str, target: str) -> None:
        with self._open(source) as file:
            self._write(target, iter(lambda: _read(file, source), b""))

    def _list(self, prefix: str) -> Sequence[str]:
        if prefix.strip("/"):
            keys.checked(prefix.rstrip("/"))
        folders = os.walk(self._root / prefix.rpartition("/")[0])
        paths = (Path(folder, name).relative_to(self._root) for folder, _, names in folders for name in names)
        return sorted(key for path in paths if (key := path.as_posix()).startswith(prefix) and path.parts[0] != _INCOMING)

    def _delete(self, keys: Sequence[str]) -> None:
        for path in map(self._path, keys):
            with _writing(), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                path.unlink()
            self._remove_empty_folders(path.parent)

    def _remove_empty_folders(self, folder: Path) -> None:
        while folder != self._root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:  # not empty
                return
            folder = folder.parent


@contextmanager
def _reading(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_THERE:
            raise ObjectMissing(f"there is no artifact {key}") from error
        raise DependencyUnavailable(f"the artifact folder cannot be read: {error.strerror}") from error


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DependencyUnavailable(f"the artifact folder cannot be written: {error.strerror}") from error


def _read(file: IO[bytes] | HashingReader, key: str) -> bytes:
    with _reading(key):
        return file.read(CHUNK_BYTES)


def _append(path: Path, chunk: bytes) -> None:
    with _writing(), path.open("ab") as file:
        file.write(chunk)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
