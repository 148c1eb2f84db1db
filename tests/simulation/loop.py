"""An event loop with a virtual clock, whose next step is chosen by a seed, and whose processes can be killed.

It runs everything in one thread: what waits for time waits for nothing else, and two runs of one seed take the same steps.
"""

import asyncio
import contextvars
import heapq
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from tests.simulation.network import PROCESS, WORLD

Value = TypeVar("Value")


_WAKES_A_SLEEPER = asyncio.futures._set_result_unless_cancelled  # type: ignore[attr-defined]
_LEFT: list[list[asyncio.Task[Any]]] = []


class Stuck(Exception):
    """Nothing is left to do, and what was waited for has not happened."""


class TooManySteps(Exception):
    """The run did not come to rest."""


class SimulationLoop(asyncio.AbstractEventLoop):
    """As much of an event loop as asyncio's tasks, futures, locks and timeouts need.

    `choose(n)` picks which of `n` ready callbacks runs next. `at_step(n)` is called before the n-th step: faults come from there.
    """

    def __init__(self, choose: Callable[[int], int], at_step: Callable[[int], None], max_steps: int = 100_000) -> None:
        self._choose = choose
        self._at_step = at_step
        self._max_steps = max_steps
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.Handle]] = []
        self._now = 0.0
        self._timer_count = 0
        self._dead: set[str] = set()
        self._stalled: dict[str, float] = {}
        self._stalls: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._tasks: list[asyncio.Task[Any]] = []
        self.steps = 0
        self.trace = 0
        self.failures: list[dict[str, Any]] = []

    def time(self) -> float:
        """Virtual seconds since the run began."""
        return self._now

    def kill(self, process: str) -> None:
        """SIGKILL: nothing that belongs to the process runs any more, not even its `finally`."""
        self._dead.add(process)

    def stall(self, process: str, seconds: float) -> None:
        """The process does nothing for a while, and does not know."""
        self._stalled[process] = self._now + seconds
        self._stalls[process].append((self._now, self._now + seconds))

    def stalls(self, process: str) -> Sequence[tuple[float, float]]:
        """When each began and ended, or will end, in seconds; in order."""
        return self._stalls[process]

    def leave(self) -> None:
        """Keeps what was left until this process ends: collecting killed coroutines would run their `finally`."""
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._ready.clear()
        self._timers.clear()
        _LEFT.append(self._tasks)

    def run(self, main: Coroutine[Any, Any, Value]) -> Value:
        """Runs until `main` ends. Raises Stuck and TooManySteps."""
        asyncio.events._set_running_loop(self)
        try:
            task = self.create_task(main)
            while not task.done():
                self._step()
            return task.result()
        finally:
            asyncio.events._set_running_loop(None)

    def _step(self) -> None:
        self._wake_timers()
        while not self._ready:  # whom the last timer woke had been cancelled
            self._wake_timers()
        chosen = self._choose(len(self._ready))
        self.trace = hash((self.trace, chosen, len(self._ready), self._now))
        handle = self._ready.pop(chosen)
        process: str = handle._context.get(PROCESS, WORLD)  # type: ignore[attr-defined]
        if handle._cancelled or process in self._dead or self._is_postponed(process, handle):  # type: ignore[attr-defined]
            return
        self.steps += 1
        if self.steps > self._max_steps:
            raise TooManySteps(f"{self.steps} steps, {self._now:.0f} s")
        self._at_step(self.steps)
        if process not in self._dead:
            handle._run()

    def _wake_timers(self) -> None:
        timers, ready = self._timers, self._ready
        if not ready:
            while timers and timers[0][2]._cancelled:  # type: ignore[attr-defined]
                heapq.heappop(timers)
            if not timers:
                raise Stuck(f"nothing to do at {self._now:.0f} s")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            handle = heapq.heappop(timers)[2]
            if handle._callback is _WAKES_A_SLEEPER:  # type: ignore[attr-defined]
                handle._run()  # no step of its own: the sleeper's is to come
            else:
                ready.append(handle)

    def _is_postponed(self, process: str, handle: asyncio.Handle) -> bool:
        until = self._stalled.get(process, 0.0) if self._stalled else 0.0
        if until <= self._now:
            return False
        self._timer_count += 1
        heapq.heappush(self._timers, (until, self._timer_count, handle))  # the same: it may be cancelled meanwhile
        return True

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        """As asyncio's, save that the order is not kept."""
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's, by the virtual clock."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's, by the virtual clock."""
        timer = _Timer(when, callback, args, self, context)
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, timer))
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        """As asyncio's."""
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None, **kwargs: Any
    ) -> asyncio.Task[Any]:
        """As asyncio's."""
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Value], *args: Any) -> asyncio.Future[Value]:
        """There are no threads: the work is done at once, its result comes at a later step."""
        future: asyncio.Future[Value] = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:
                future.set_exception(error)

        self.call_soon(work)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keeps what nobody caught."""
        self.failures.append(context)

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """While `run` runs."""
        return asyncio.events._get_running_loop() is self

    def is_closed(self) -> bool:
        """Never."""
        return False


class _Handle(asyncio.Handle):
    """asyncio's asks the loop, each time, whether it is debugged."""

    __slots__ = ()

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], loop: SimulationLoop, context: contextvars.Context | None
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class _Timer(_Handle, asyncio.TimerHandle):
    """One that has its time."""

    __slots__ = ()

    def __init__(
        self, when: float, callback: Callable[..., Any], args: tuple[Any, ...], loop: SimulationLoop, context: contextvars.Context | None
    ) -> None:
        _Handle.__init__(self, callback, args, loop, context)
        self._when = when
        self._scheduled = False

    def cancel(self) -> None:
        asyncio.Handle.cancel(self)


def seeded_choice(rng: random.Random, patience: int) -> Callable[[int], int]:
    """Any ready callback at each of the first `patience` choices, the oldest from then on. A shorter patience is a simpler schedule."""
    left = [patience]

    def choose(count: int) -> int:
        left[0] -= 1
        return rng.randrange(count) if count > 1 and left[0] >= 0 else 0

    return choose
