"""Waiting for a broker or a store that is away, or for room on the disk, with the message held."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from loguru import logger

from shared.errors import DependencyUnavailable, Unroutable
from shared.ports import ArtifactStore, Broker, Publication, StoredFile

BROKER = "broker"
STORE = "store"
DISK = "disk"

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0

Value = TypeVar("Value")
OnState = Callable[[str, bool], None]  # dependency, whether it answers


class WaitedTooLong(Exception):
    """A dependency was away for longer than the message may be held: for `limit_s`."""

    def __init__(self, dependency: str, limit_s: float) -> None:
        self.limit_s = limit_s
        super().__init__(f"the {dependency} was away for {limit_s:.0f} s")


class Patience:
    """Tries again, with growing pauses, while a dependency is away; for at most `limit_s` at a stretch."""

    def __init__(self, limit_s: float, on_state: OnState, rng: random.Random) -> None:
        self._limit_s = limit_s
        self._on_state = on_state
        self._rng = rng

    def extend(self, limit_s: float) -> None:
        """From now on it lasts as long as this."""
        self._limit_s = max(self._limit_s, limit_s)

    def endless(self) -> "Patience":
        """The same without a limit: for settling, where there is nothing else to do."""
        return Patience(float("inf"), self._on_state, self._rng)

    async def call(self, dependency: str, operation: Callable[[], Awaitable[Value]]) -> Value:
        """What the operation returns in the end. Raises WaitedTooLong."""
        loop = asyncio.get_running_loop()
        away_since: float | None = None
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                value = await operation()
            except (DependencyUnavailable, Unroutable) as error:
                if away_since is None:
                    away_since = loop.time()
                    logger.warning("waiting for the {}: {}", dependency, error)
                self._on_state(dependency, False)
                if loop.time() - away_since >= self._limit_s:
                    raise WaitedTooLong(dependency, self._limit_s) from error
            else:
                if away_since is not None:
                    self._on_state(dependency, True)
                return value
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


class PatientStore:
    """What a worker does with the store, each call with patience."""

    def __init__(self, store: ArtifactStore, patience: Patience) -> None:
        self._store = store
        self._patience = patience

    @property
    def patience(self) -> Patience:
        """For what else the message waits for."""
        return self._patience

    async def get(self, key: str) -> bytes:
        """The whole object."""
        return await self._patience.call(STORE, lambda: self._store.get(key))

    async def put(self, key: str, data: bytes) -> None:
        """Writes the whole object."""
        await self._patience.call(STORE, lambda: self._store.put(key, data))

    async def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""
        return await self._patience.call(STORE, lambda: self._store.exists(key))

    async def upload(self, path: Path, key: str, content_type: str) -> StoredFile:
        """Writes a file."""
        return await self._patience.call(STORE, lambda: self._store.upload(path, key, content_type))

    async def copy(self, source: str, target: str) -> None:
        """Copies on the store's side."""
        await self._patience.call(STORE, lambda: self._store.copy(source, target))

    async def download(self, key: str, path: Path, sha256: str | None) -> int:
        """Writes the object to a file, verified."""
        return await self._patience.call(STORE, lambda: self._store.download(key, path, sha256))

    async def list(self, prefix: str) -> Sequence[str]:
        """Every key below a prefix."""
        return await self._patience.call(STORE, lambda: self._store.list(prefix))

    async def delete(self, keys: Sequence[str]) -> None:
        """Removes keys."""
        await self._patience.call(STORE, lambda: self._store.delete(keys))


class PatientPublisher:
    """Publishes with patience."""

    def __init__(self, broker: Broker, patience: Patience) -> None:
        self._broker = broker
        self._patience = patience

    async def publish(self, publication: Publication) -> None:
        """Returns once the broker has it."""
        await self._patience.call(BROKER, lambda: self._broker.publish(publication))
