"""Polling instead of sleeping: a test waits for what it needs to see, and no longer."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

Value = TypeVar("Value")


async def eventually(condition: Callable[[], Value | Awaitable[Value]], timeout_s: float = 10.0, interval_s: float = 0.02) -> Value:
    """The first truthy value of `condition` (plain or async). Raises AssertionError when none came in time.

    >>> await eventually(lambda: worker.ready()["consumer"], 5)
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return cast(Value, value)
        if loop.time() >= deadline:
            raise AssertionError(f"not true within {timeout_s} s: {_describe(condition)} (last value {value!r})")
        await asyncio.sleep(interval_s)


def wait_until(condition: Callable[[], Value], timeout_s: float = 10.0, interval_s: float = 0.02) -> Value:
    """As `eventually`, for tests without an event loop."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not true within {timeout_s} s: {_describe(condition)} (last value {value!r})")
        time.sleep(interval_s)


def _describe(condition: Callable[..., object]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)
