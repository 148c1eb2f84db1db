"""The relay: carries out what rows decided, a job's rows in order, one replica at a time. Lets waiting jobs in.

relay = Relay(database, broker, store, RelaySettings(secrets_of=..., seal_key=...))
await relay.start()

A crash between carrying out and marking repeats the row: every effect is one that may come twice.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from functools import partial

from loguru import logger

from gateway.carrying_out import Carrier, RelaySettings
from gateway.database import outbox
from gateway.database.admission import admit
from gateway.database.engine import Database, Rows
from gateway.database.outbox import Claim
from gateway.patience import FIRST_PAUSE_S, LONGEST_PAUSE_S, stop_tasks
from shared.errors import DependencyUnavailable
from shared.ports import ArtifactStore, Broker

# Two lanes, so that a broker that is away does not keep work from being stopped.
STORE_KINDS = ("stop", "body", "tidy", "purge")
BROKER_KINDS = ("publish", "webhook", "replay")
_GIVE_BACK_S = 2.0
_REST_S = 0.05  # after a round that found nothing: arrivals by the hundred a second are looked at together
_BROKEN_ROW_PAUSE = timedelta(seconds=30)  # a row that fails by itself: others go on, it is tried again


class Relay:
    """Runs until stopped; any number of replicas may run. `owner` names this one in leases."""

    def __init__(self, database: Database, broker: Broker, store: ArtifactStore, settings: RelaySettings, owner: str = "relay") -> None:
        carrier = Carrier(database, broker, store, settings)
        admission = partial(admit, in_flight=settings.in_flight, limit=settings.at_once)
        self._lanes = (
            _Lane(database, carrier, settings, owner, STORE_KINDS),
            _Lane(database, carrier, settings, owner, BROKER_KINDS, admission),
        )
        self._tasks: list[asyncio.Task[None]] = []
        database.on_outbox(self._wake)

    @property
    def active(self) -> bool:
        """Whether it runs."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def start(self) -> None:
        """Begins to work rows."""
        self._tasks = [asyncio.create_task(lane.run(), name=f"relay-{lane.kinds[0]}") for lane in self._lanes]

    async def stop(self) -> None:
        """Leaves the rest to the next start; rows under way are repeated once their lease ends."""
        await stop_tasks(*self._tasks)

    async def run_once(self) -> int:
        """Works what is due now, to the end of each job's rows; how many rows were carried out. For tests and tools."""
        return sum([await lane.run_once() for lane in self._lanes])

    def _wake(self, kinds: Collection[str]) -> None:
        for lane in self._lanes:
            if not set(lane.kinds).isdisjoint(kinds):
                lane.wakeup.set()


async def _no_admission(rows: Rows) -> int:
    return 0


class _Lane:
    """Some kinds of rows, worked in rounds: claim, carry out, mark."""

    def __init__(
        self,
        database: Database,
        carrier: Carrier,
        settings: RelaySettings,
        owner: str,
        kinds: tuple[str, ...],
        admission: Callable[[Rows], Awaitable[int]] = _no_admission,
    ) -> None:
        self.kinds = kinds
        self.wakeup = asyncio.Event()
        self._database = database
        self._carrier = carrier
        self._settings = settings
        self._owner = owner
        self._admission = admission

    async def run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            self.wakeup.clear()
            try:
                worked = await self._round()
                pause_s = FIRST_PAUSE_S
            except DependencyUnavailable as error:
                logger.warning("the relay waits {} s: {}", pause_s, error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                continue
            except Exception:
                logger.exception("a round of the relay failed")
                worked = 0
            if not worked:
                await self._sleep()

    async def run_once(self) -> int:
        total = 0
        while worked := await self._round():
            total += worked
        return total

    async def _sleep(self) -> None:
        await asyncio.sleep(_REST_S)
        try:
            async with asyncio.timeout(self._settings.poll_s):
                await self.wakeup.wait()
        except TimeoutError:
            pass

    async def _round(self) -> int:
        """Rows carried out. Raises DependencyUnavailable, after what succeeded was marked and the rest released."""
        async with self._database.write() as rows:
            await self._admission(rows)
            claims = await outbox.claim(rows, self._owner, self.kinds, self._settings.at_once, self._settings.lease)
        if not claims:
            return 0
        try:
            outcomes = await asyncio.gather(*(self._carrier.carry_out(claimed) for claimed in claims), return_exceptions=True)
        except asyncio.CancelledError:
            await self._give_back(claims)
            raise
        results = list(zip(claims, outcomes, strict=True))
        done = [claimed for claimed, outcome in results if outcome is None]
        away = [claimed for claimed, outcome in results if isinstance(outcome, DependencyUnavailable)]
        broken = [claimed for claimed, outcome in results if outcome is not None and not isinstance(outcome, DependencyUnavailable)]
        async with self._database.write() as rows:
            await self._mark(rows, done, away, broken)
        for claimed, outcome in results:
            if isinstance(outcome, DependencyUnavailable):
                raise outcome
            if outcome is not None:
                logger.error("row {} ({}) of job {} failed: {!r}", claimed.id, claimed.kind, claimed.job_id, outcome)
        return len(done)

    async def _give_back(self, claims: list[Claim]) -> None:
        """We are being stopped: the next relay need not wait for our leases to end. Where that fails, it does."""
        with contextlib.suppress(DependencyUnavailable, TimeoutError):
            async with asyncio.timeout(_GIVE_BACK_S), self._database.write() as rows:
                await outbox.release(rows, claims)

    async def _mark(self, rows: Rows, done: list[Claim], away: list[Claim], broken: list[Claim]) -> None:
        if done:
            await outbox.mark_sent(rows, done)
        if away:
            await outbox.release(rows, away)
        if broken:
            await outbox.release(rows, broken, _BROKEN_ROW_PAUSE)
