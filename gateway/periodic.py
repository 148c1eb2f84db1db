"""A task that is done again and again until stopped."""

import asyncio
from datetime import timedelta

from loguru import logger

from gateway.patience import stop_tasks
from shared.errors import DependencyUnavailable


class Periodic:
    """Calls `run_once` at start and then after every `interval`; what fails is tried again at the next turn."""

    def __init__(self, interval: timedelta) -> None:
        self._interval = interval
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins."""
        self._task = asyncio.create_task(self._run(), name=type(self).__name__)

    async def stop(self) -> None:
        """Ends, also in the middle: every turn is made of short transactions."""
        await stop_tasks(self._task)

    async def run_once(self) -> None:
        """One turn."""
        raise NotImplementedError

    async def _run(self) -> None:
        while True:
            try:
                await self.run_once()
            except DependencyUnavailable as error:
                logger.warning("{} waits for the next turn: {}", type(self).__name__, error)
            except Exception:
                logger.exception("a turn of {} failed", type(self).__name__)
            await asyncio.sleep(self._interval.total_seconds())
