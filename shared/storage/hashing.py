"""Bytes counted and hashed on their way, so that nothing is read twice."""

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

from shared.errors import ObjectCorrupt

CHUNK_BYTES = 1 << 20


class Readable(Protocol):
    """A file, or a response that is read like one."""

    def read(self, size: int, /) -> bytes: ...


class HashingReader:
    """A source that keeps the sha256 of what was read from it."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self.bytes_read = 0

    def read(self, size: int = -1) -> bytes:
        """As the source's own."""
        data = self._source.read(size)
        self._hash.update(data)
        self.bytes_read += len(data)
        return data

    @property
    def sha256(self) -> str:
        """Of everything read so far, in hex."""
        return self._hash.hexdigest()


async def in_large_chunks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least 1 MiB (but the last), for which a switch to a thread is worth its price."""
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        if len(buffer) >= CHUNK_BYTES:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


def temporary_beside(path: Path) -> Path:
    """A name in the same folder, short whatever the file's own name is, to be renamed when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f".{os.urandom(8).hex()}.part"


def saved(source: Readable, read: Callable[[HashingReader, str], bytes], key: str, path: Path, sha256: str | None) -> int:
    """Writes an object to `path`, whole or not at all (parents made), and returns its size. Raises ObjectCorrupt when the sha256 differs.

    `read` takes the next piece of the object with this key, and knows what the store's errors mean.
    """
    reader, part = HashingReader(source), temporary_beside(path)
    try:
        with part.open("xb") as file:
            while chunk := read(reader, key):
                file.write(chunk)
        if sha256 is not None and reader.sha256 != sha256:
            raise ObjectCorrupt(key)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return reader.bytes_read
