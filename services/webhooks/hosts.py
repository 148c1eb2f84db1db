"""At most so many calls at once to one host, so that a slow receiver is not also a flooded one, and holds nobody else up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.http.addresses import host_of

# A receiver that queues and answers takes milliseconds. Where no call begins for so long, others wait behind those that wait.
STALLED_S = 1.0


class NoTurn(Exception):
    """The host takes its time: the call had better come back later."""


class _Host:
    def __init__(self, per_host: int, now: float) -> None:
        self.turns = asyncio.Semaphore(per_host)
        self.patient = asyncio.Semaphore(per_host)  # so many wait as long as it takes: a slow receiver is called without a break
        self.began = now  # when a call last began
        self.interested = 0

    async def take(self) -> None:
        """A turn. Raises NoTurn."""
        clock = asyncio.get_running_loop().time
        if not self.patient.locked():
            async with self.patient:
                await self.turns.acquire()
        else:
            try:
                async with asyncio.timeout(STALLED_S if clock() - self.began < STALLED_S else 0.0):
                    await self.turns.acquire()
            except TimeoutError:
                raise NoTurn from None
        self.began = clock()


class HostTurns:
    """Turns per host; hosts that nobody waits for are forgotten."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, url: str) -> AsyncIterator[None]:
        """A turn at the URL's host. Who finds as many waiting as are called waits a moment only. Raises NoTurn, at once where others have
        waited in vain."""
        name = _name(url)
        host = self._hosts.setdefault(name, _Host(self._per_host, asyncio.get_running_loop().time()))
        host.interested += 1
        try:
            await host.take()
            try:
                yield
            finally:
                host.turns.release()
        finally:
            host.interested -= 1
            if not host.interested:
                del self._hosts[name]


def _name(url: str) -> str:
    try:
        return host_of(url)
    except ValueError:
        return ""  # the call will say what is wrong with it
