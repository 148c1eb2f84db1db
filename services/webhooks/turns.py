"""Who is called next: so many calls at once to one host, and no tenant holds so many places that others find none.

A place is a delivery that is called, or is the next in line for a host. What finds none waits a moment where calls end within moments,
else it comes back later: it is not held, so that a place stays free for whoever stands behind it in the queue.
"""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from shared.http.addresses import host_of

# A receiver that queues and answers takes milliseconds. Who waits behind calls that take longer waits in vain.
MOMENT_S = 1.0

# A tenant's share moves with what is free (dynamic thresholds, Choudhury and Hahne 1998): nobody is limited where there is room, and a
# free place is left beside any number of tenants. Twice what is free is 22 of 32 places for one, 13 each for two. To stand in line only
# keeps a host busy without a break: for that it takes no more than is free.
CALLING, IN_LINE = 2, 1


class NoTurn(Exception):
    """The host takes its time: the call had better come back later."""


class ShareUsedUp(NoTurn):
    """The tenant's calls take their time, and it holds as many places as it may."""


class _Line:
    """Deliveries of one tenant, or of one tenant to one host."""

    def __init__(self) -> None:
        self.here = 0  # with those who wait a moment for a place
        self.held = 0  # places
        self.began: list[float] = []  # when each call under way began, in that order

    def stalled(self, now: float) -> bool:
        """Whether more than a quarter of the calls under way have taken longer than a moment."""
        return 4 * bisect_left(self.began, now - MOMENT_S) > len(self.began)


class Turns:
    """Turns of every call that one service makes; lines that nobody stands in are forgotten.

    turns = Turns(places=32, per_host=4)
    async with turns.turn(message.url, message.tenant):
        …
    """

    def __init__(self, places: int, per_host: int) -> None:
        self._free = places
        self._per_host = per_host
        self._lines: dict[tuple[str, ...], _Line] = {}
        self._given_back = asyncio.Event()

    @asynccontextmanager
    async def turn(self, url: str, tenant: str) -> AsyncIterator[None]:
        """A turn of this tenant at the URL's host: what others send there takes none of its turns. Raises NoTurn."""
        with self._present(tenant) as of_tenant, self._present(tenant, _name(url)) as of_host:
            await self._come_in(of_host, of_tenant)
            with self._place(of_host, of_tenant):
                await self._until(lambda: len(of_host.began) < self._per_host)
                with self._call(of_host, of_tenant):
                    yield

    async def _come_in(self, host: _Line, tenant: _Line) -> None:
        """Returns when there is a place. Raises NoTurn, at once where others wait in vain."""
        if self._has_place(host, tenant):
            return
        host_is_full = host.held >= 2 * self._per_host
        refusal = NoTurn if host_is_full else ShareUsedUp
        if (host if host_is_full else tenant).stalled(asyncio.get_running_loop().time()):
            raise refusal
        try:
            async with asyncio.timeout(MOMENT_S):
                await self._until(lambda: self._has_place(host, tenant))
        except TimeoutError:
            raise refusal from None

    def _has_place(self, host: _Line, tenant: _Line) -> bool:
        """As many may stand in line for a host as are called."""
        per_free_one = CALLING if host.held < self._per_host else IN_LINE
        return host.held < 2 * self._per_host and tenant.held < per_free_one * self._free

    async def _until(self, may: Callable[[], bool]) -> None:
        """Looks whenever a place was given back; who has waited longest looks first."""
        while not may():
            await self._given_back.wait()

    @contextmanager
    def _present(self, *name: str) -> Iterator[_Line]:
        line = self._lines.setdefault(name, _Line())
        line.here += 1
        try:
            yield line
        finally:
            line.here -= 1
            if not line.here:
                del self._lines[name]

    @contextmanager
    def _place(self, *lines: _Line) -> Iterator[None]:
        self._free -= 1
        for line in lines:
            line.held += 1
        try:
            yield
        finally:
            self._free += 1
            for line in lines:
                line.held -= 1
            self._given_back.set()
            self._given_back.clear()

    @contextmanager
    def _call(self, *lines: _Line) -> Iterator[None]:
        began = asyncio.get_running_loop().time()
        for line in lines:
            line.began.append(began)
        try:
            yield
        finally:
            for line in lines:
                line.began.remove(began)


def _name(url: str) -> str:
    try:
        return host_of(url)
    except ValueError:
        return ""  # the call will say what is wrong with it
