"""What runs beside the HTTP side: the schema's upgrade, then tracker, relay and sweeper. HTTP answers from the start, 503 where it must."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from loguru import logger

from gateway.patience import stop_tasks, when_available
from shared.errors import DependencyUnavailable


class Runner(Protocol):
    """Something that runs until it is stopped."""

    async def start(self) -> None:
        """Returns once it runs."""

    async def stop(self) -> None:
        """Returns once it rests."""


class Background:
    """Starts its parts one after the other, waiting for whatever server is late."""

    def __init__(self, prepare: Sequence[tuple[str, Callable[[], Awaitable[None]]]], runners: Sequence[Runner]) -> None:
        self._prepare = prepare
        self._runners = runners
        self._running: list[Runner] = []
        self._starting: asyncio.Task[None] | None = None

    async def start(self, patience_s: float) -> None:
        """Returns once all runs, or after `patience_s`: then the start goes on by itself."""
        self._starting = asyncio.create_task(self._start(), name="background start")
        await asyncio.wait({self._starting}, timeout=patience_s)

    async def stop(self) -> None:
        """Stops everything, last started first."""
        await stop_tasks(self._starting)
        while self._running:
            await self._running.pop().stop()

    async def ping(self) -> None:
        """Raises DependencyUnavailable until everything runs."""
        if self._starting is None or not self._starting.done() or self._starting.cancelled() or self._starting.exception():
            raise DependencyUnavailable("the start is not complete")

    async def _start(self) -> None:
        try:
            for name, prepare in self._prepare:
                await when_available(prepare, name)
            for runner in self._runners:
                self._running.append(runner)
                await runner.start()
        except Exception:
            logger.exception("the start failed")
            raise
        logger.info("everything runs")
