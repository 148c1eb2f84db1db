"""Waiting for what is away: broker, store, database. Nothing is dropped meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from loguru import logger

from shared.errors import DependencyUnavailable

Value = TypeVar("Value")

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0


async def pauses() -> AsyncIterator[float]:
    """Pauses between tries, doubling, after each of which the next is due."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


async def when_available(action: Callable[[], Awaitable[Value]], what: str) -> Value:
    """The result of `action`, tried until nothing that it needs is away."""
    async for pause_s in pauses():
        try:
            return await action()
        except DependencyUnavailable as error:
            logger.warning("{} waits {} s: {}", what, pause_s, error)
    raise AssertionError("pauses never end")


async def stop_tasks(*tasks: asyncio.Task[None] | None) -> None:
    """Cancels loops and waits until they are gone."""
    for task in tasks:
        if task is not None:
            task.cancel()
    await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
