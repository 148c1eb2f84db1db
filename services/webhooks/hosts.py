"""At most so many calls at once to one host, so that a slow receiver is not also a flooded one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.http.addresses import host_of


class HostTurns:
    """Turns per host; hosts that nobody waits for are forgotten."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._interested: dict[str, int] = {}

    @asynccontextmanager
    async def turn(self, url: str) -> AsyncIterator[None]:
        """Waits for a turn at the URL's host."""
        host = _host(url)
        turns = self._turns.setdefault(host, asyncio.Semaphore(self._per_host))
        self._interested[host] = self._interested.get(host, 0) + 1
        try:
            async with turns:
                yield
        finally:
            self._interested[host] -= 1
            if not self._interested[host]:
                del self._interested[host], self._turns[host]


def _host(url: str) -> str:
    try:
        return host_of(url)
    except ValueError:
        return ""  # the call will say what is wrong with it
