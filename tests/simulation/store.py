"""Artifacts in memory, behind the network: every write is atomic, as an object store's are."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

from shared.errors import ObjectCorrupt, ObjectMissing
from shared.ports import StoredFile
from tests.simulation.network import NOTHING, Network
from tests.simulation.plan import DAMAGED, LATE, MISREAD

STORE = "store"


class Bucket:
    """What all processes share. `damaged`: keys of outputs in which a bit flipped, or which vanished.

    `faults`: those, misread ones, and keys that are there again after they were removed: a manifest that names what is damaged, taken
    back, and written by whoever had given up, leads to the same damage once more. `since`: when each key was first written.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.damaged: set[str] = set()
        self.since: dict[str, float] = {}
        self.faults = 0
        self._removed: set[str] = set()

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data
        self.since.setdefault(key, asyncio.get_running_loop().time())

    def put_late(self, key: str, data: bytes) -> None:
        """After whoever wrote it had given up."""
        self.faults += key in self._removed
        self.put(key, data)

    def damage(self, key: str) -> None:
        self.objects[key] = self.flipped(self.objects[key])
        self.damaged.add(key)

    def damage_body(self, key: str) -> None:
        """Of a webhook: it is stored again from its row, and fails no job."""
        self.objects[key] = _flipped(self.objects[key])

    def lose(self, key: str) -> None:
        del self.objects[key]
        self.damaged.add(key)
        self.faults += 1

    def flipped(self, data: bytes) -> bytes:
        self.faults += 1
        return _flipped(data)

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise ObjectMissing(key)
        return self.objects[key]

    def remove(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            self._removed.add(key)

    def below(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    def outputs(self) -> list[str]:
        """What steps and parts made; not what says so."""
        said = ("/manifest.json", "/split.json")
        return sorted(key for key in self.objects if (key.count("/") == 4 or "/parts/" in key) and not key.endswith(said))


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _is_body(key: str) -> bool:
    return "/webhooks/" in key


class SimulatedStore:
    """An `ArtifactStore` over a bucket."""

    def __init__(self, bucket: Bucket, network: Network) -> None:
        self._bucket = bucket
        self._network = network

    async def put(self, key: str, data: bytes, content_type: str = "application/json") -> None:
        def write() -> None:
            self._bucket.put(key, data)

        damage = {DAMAGED: lambda: self._bucket.damage_body(key)} if _is_body(key) else NOTHING
        await self._network.call(STORE, f"put {key}", write, {LATE: lambda: self._bucket.put_late(key, data), **damage})

    async def get(self, key: str, max_bytes: int = 64 << 20) -> bytes:
        misread: list[str] = []
        fates = {MISREAD: lambda: misread.append(key)} if _is_body(key) else NOTHING
        data = await self._network.call(STORE, f"get {key}", lambda: self._bucket.get(key), fates)
        return _flipped(data) if misread else data

    async def exists(self, key: str) -> bool:
        return await self._network.call(STORE, f"head {key}", lambda: key in self._bucket.objects)

    async def upload(self, path: Path, key: str, content_type: str) -> StoredFile:
        data = path.read_bytes()  # noqa: ASYNC240 - there is but one thread

        def write() -> None:
            self._bucket.put(key, data)

        await self._network.call(STORE, f"upload {key}", write, {LATE: write, DAMAGED: lambda: self._bucket.damage(key)})
        return StoredFile(key, len(data), hashlib.sha256(data).hexdigest())

    async def upload_stream(self, chunks: AsyncIterator[bytes], key: str, content_type: str) -> StoredFile:
        data = b"".join([chunk async for chunk in chunks])
        await self.put(key, data)
        return StoredFile(key, len(data), hashlib.sha256(data).hexdigest())

    async def download(self, key: str, path: Path, sha256: str | None = None) -> int:
        misread: list[str] = []
        fates = {MISREAD: lambda: misread.append(key)}
        data = await self._network.call(STORE, f"download {key}", lambda: self._bucket.get(key), fates)
        data = self._bucket.flipped(data) if misread else data
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise ObjectCorrupt(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)  # noqa: ASYNC240 - there is but one thread
        return len(data)

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        yield await self.get(key)

    async def copy(self, source: str, target: str) -> None:
        await self._network.call(STORE, f"copy {source}", lambda: self._bucket.put(target, self._bucket.get(source)))

    async def list(self, prefix: str) -> Sequence[str]:
        return await self._network.call(STORE, f"list {prefix}", lambda: self._bucket.below(prefix))

    async def delete(self, keys: Sequence[str]) -> None:
        """One by one, as a store may be interrupted between two keys."""
        for key in keys:
            await self._delete_one(key)

    async def presign(self, key: str, expires: timedelta, filename: str, content_type: str) -> str | None:
        return None

    async def ping(self) -> None:
        await self._network.call(STORE, "ping", lambda: None)

    async def _delete_one(self, key: str) -> None:
        def remove() -> None:
            self._bucket.remove(key)

        await self._network.call(STORE, f"delete {key}", remove, {LATE: remove})
