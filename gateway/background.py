"""What runs beside the HTTP side. HTTP answers from the start, 503 where it must; each track waits for the servers that it needs."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from loguru import logger

from gateway.patience import stop_tasks
from shared.errors import DependencyUnavailable

Track = Callable[[], Awaitable[None]]


class Runner(Protocol):
    """Something that runs until it is stopped; stopping what never started is no error."""

    async def start(self) -> None:
        """Returns once it runs."""

    async def stop(self) -> None:
        """Returns once it rests."""


class Background:
    """Tracks start things, all at once; runners are what they started."""

    def __init__(self, tracks: Sequence[Track], runners: Sequence[Runner]) -> None:
        self._tracks = tracks
        self._runners = runners
        self._starting: list[asyncio.Task[None]] = []

    async def start(self, patience_s: float) -> None:
        """Returns once all runs, or after `patience_s`: then the start goes on by itself."""
        self._starting = [asyncio.create_task(_logged(track), name="start") for track in self._tracks]
        await asyncio.wait(self._starting, timeout=patience_s)

    async def stop(self) -> None:
        """Stops everything, last started first."""
        await stop_tasks(*self._starting)
        for runner in reversed(self._runners):
            await runner.stop()

    async def ping(self) -> None:
        """Raises DependencyUnavailable until everything runs."""
        if not self._starting or not all(task.done() and not task.cancelled() and task.exception() is None for task in self._starting):
            raise DependencyUnavailable("the start is not complete")


async def _logged(track: Track) -> None:
    try:
        await track()
    except Exception:
        logger.exception("the start failed")
        raise
