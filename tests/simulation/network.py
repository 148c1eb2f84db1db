"""What lies between processes, and what it does to calls: see `plan.FATES`."""

import asyncio
import contextvars
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeVar

from shared.errors import DependencyUnavailable
from tests.simulation import plan
from tests.simulation.plan import Mishap, Plan, pause

Value = TypeVar("Value")

_CALLER_PAUSE_S = 30.0
NOTHING: Mapping[str, Callable[[], object]] = {}
WORLD = "world"
PROCESS: contextvars.ContextVar[str] = contextvars.ContextVar("process", default=WORLD)


@dataclass(frozen=True)
class Hooks:
    """What a mishap does to the process that makes the call, by the process's name."""

    crash: Callable[[str, float], None]
    cut: Callable[[str], None]
    stall: Callable[[str, float], None]


@dataclass
class Network:
    """Every call to broker, store and database passes here. `away`: dependencies that nobody reaches now, and since when."""

    given: Plan
    rng: random.Random
    own_time: contextvars.Context  # what arrives late outlives whoever sent it
    hooks: Hooks
    away: dict[str, float] = field(default_factory=dict)
    calls: int = 0
    delivered: Counter[str] = field(default_factory=Counter)  # messages, by queue
    met: list[tuple[Mishap, str]] = field(default_factory=list)  # and what it happened to
    calm: bool = False

    def __post_init__(self) -> None:
        self._fates = random.Random(f"fates {self.given.seed}")
        self._names = [fate for fate, _ in self.given.rates]
        self._bounds = list(accumulate(rate for _, rate in self.given.rates))
        self._given = None if self.given.mishaps is None else {mishap.call: mishap for mishap in self.given.mishaps}

    async def call(
        self, dependency: str, what: str, effect: Callable[[], Value], more: Mapping[str, Callable[[], object]] = NOTHING
    ) -> Value:
        """The result of `effect`. Raises DependencyUnavailable whether or not it took place. `more`: what some fates do beside it."""
        await self.pass_by()
        mishap = self.fate(dependency, what, more)
        if dependency in self.away:
            raise DependencyUnavailable(f"{dependency} is away")
        if mishap is None:
            result = effect()
        else:
            await self._before(mishap, more)
            result = effect()
            await self._after(mishap, more)
        await self.pass_by()
        return result

    async def _before(self, mishap: Mishap, more: Mapping[str, Callable[[], object]]) -> None:
        match mishap.fate:
            case plan.REFUSED:
                raise DependencyUnavailable("the call did not arrive")
            case plan.LATE:
                later = asyncio.get_running_loop().call_later
                later(mishap.seconds, _quietly, more[plan.LATE], context=self.own_time.copy())
                raise DependencyUnavailable("no answer in time")
            case plan.CRASH_BEFORE:
                await self.crash(mishap)
            case plan.CUT:
                self.hooks.cut(PROCESS.get())

    async def _after(self, mishap: Mishap, more: Mapping[str, Callable[[], object]]) -> None:
        match mishap.fate:
            case plan.LOST:
                raise DependencyUnavailable("the answer was lost")
            case plan.CRASH_AFTER:
                await self.crash(mishap)
            case plan.STALL:
                self.hooks.stall(PROCESS.get(), mishap.seconds)
            case plan.TWICE | plan.DAMAGED | plan.MISREAD:
                more[mishap.fate]()

    def fate(self, dependency: str, what: str, more: Mapping[str, Callable[[], object]] = NOTHING) -> Mishap | None:
        """What becomes of the next call, if anything does."""
        self.calls += 1
        if self.calm:
            return None
        mishap = self._drawn() if self._given is None else self._given.get(self.calls)
        process = PROCESS.get()
        if mishap is None or not _applies(mishap.fate, process, more):
            return None
        self.met.append((mishap, f"{process}: {dependency} {what}"))
        return mishap

    async def crash(self, mishap: Mishap) -> None:
        """The calling process ends here."""
        self.hooks.crash(PROCESS.get(), mishap.seconds)
        await asyncio.get_running_loop().create_future()

    async def pass_by(self) -> None:
        """A packet's way."""
        drawn = self.rng.random()
        if drawn < self.given.slow and not self.calm:
            await asyncio.sleep(self.rng.uniform(0.5, 30.0))
        else:
            await asyncio.sleep(0.01 * drawn if drawn < 0.5 else 0)

    def calm_down(self) -> None:
        """From now on everything arrives."""
        self.calm = True
        self.away.clear()

    def _drawn(self) -> Mishap | None:
        drawn = self._fates.random()
        for fate, bound in zip(self._names, self._bounds, strict=True):
            if drawn < bound:
                return Mishap(self.calls, fate, pause(self._fates))
        return None


def _applies(fate: str, process: str, more: Mapping[str, Callable[[], object]]) -> bool:
    """Callers are nobody's process; not every call can be late, come twice, be damaged or misread."""
    if fate in (plan.TWICE, plan.DAMAGED, plan.MISREAD, plan.LATE):
        return fate in more
    return process != WORLD or fate in (plan.REFUSED, plan.LOST)


def _quietly(effect: Callable[[], object]) -> None:
    try:
        effect()
    except Exception:  # nobody is there any more to hear of it
        return


async def until_calm(action: Callable[[], Awaitable[Value]]) -> Value:
    """A caller who tries again."""
    while True:
        try:
            return await action()
        except DependencyUnavailable:
            await asyncio.sleep(_CALLER_PAUSE_S)
