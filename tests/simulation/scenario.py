"""One run: jobs come in, faults happen, then it is calm; what is promised must hold in the end."""

import asyncio
import random
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any
from unittest import mock

from loguru import logger

from gateway.database.jobs import SECOND_PURGE
from gateway.database.records import ENDINGS, InsertedJob, JobFinished, JobMissing
from tests.simulation.invariants import Ledger, violations
from tests.simulation.loop import SimulationLoop, Stuck, TooManySteps, seeded_choice
from tests.simulation.network import until_calm
from tests.simulation.parts import GATEWAY
from tests.simulation.plan import CALM_AFTER_S, Fault, Mishap, Plan
from tests.simulation.rows import database_file, inline_sessions
from tests.simulation.stand_ins import STEPS
from tests.simulation.world import World
from tests.support.builders import a_request, a_slip
from tests.support.gateway_rows import ALL_EVENTS, TENANT, new_job

HORIZON_S = 4 * 3600.0  # after calm: what has not ended by then never will
_WAKING_S = 1200.0  # longer than anybody is stalled, or a call is late
_LOOK_EVERY_S = 60.0


@dataclass
class Outcome:
    """What came of a run. `log`: the faults as they happened; `met`: mishaps, and what they happened to.

    `trace` is the same for the same seed, and for hardly any other run.
    """

    plan: Plan
    violations: list[str]
    log: list[str]
    met: list[tuple[Mishap, str]]
    steps: int
    seconds: float
    trace: int

    @property
    def explicit(self) -> Plan:
        """The plan with the mishaps that were drawn: the same run, of which single ones can be left out."""
        return replace(self.plan, mishaps=tuple(mishap for mishap, _ in self.met))


def run(plan: Plan) -> Outcome:
    """One run, from its plan."""
    rng = random.Random(f"run {plan.seed}")
    happening = _Happening(plan)
    loop = SimulationLoop(seeded_choice(random.Random(f"order {plan.seed}"), plan.disorder), happening.at_step)
    with _quiet(rng) as errors:
        database_file().empty()
        world = happening.world = World(plan, loop, rng, database_file())
        try:
            found = world.own_context.run(loop.run, _scenario(world, plan, happening))
        except _Broken:
            found = list(world.watcher.complaints)
        except (Stuck, TooManySteps) as error:
            found = [*world.watcher.complaints, f"stuck: {error}"]
        found += [f"an error nobody expected: {error}" for error in errors]
        found += [f"nobody caught: {failure.get('exception')!r}" for failure in loop.failures]
        world.close()
    loop.leave()
    return Outcome(plan, found, world.log, world.network.met, loop.steps, loop.time(), loop.trace)


class _Happening:
    """Faults as their steps come."""

    world: World

    def __init__(self, plan: Plan) -> None:
        self.ledger = Ledger()
        self._pending = list(plan.faults)
        self._asking: set[asyncio.Task[None]] = set()

    def over(self) -> bool:
        """Whether all have happened; what comes to rest before that is disturbed by the next one."""
        if self._pending and self.at_rest():
            self._happen(self._pending.pop(0))
        return not self._pending and self.at_rest()

    def at_rest(self) -> bool:
        """Whether nothing is on its way, nor any caller's request."""
        return not self._asking and self.world.at_rest()

    def at_step(self, step: int) -> None:
        """Those of this step."""
        while self._pending and self._pending[0].step <= step:
            fault = self._pending.pop(0)
            if not self.world.network.calm:
                self._happen(fault)

    def _happen(self, fault: Fault) -> None:
        ask = {"cancel": _cancel, "delete": _delete}.get(fault.kind)
        if ask is None:
            self.world.at(fault)
        elif self.ledger.accepted:
            world, job_id = self.world, self.ledger.accepted[fault.target % len(self.ledger.accepted)]
            world.log.append(f"step {world.loop.steps}, {world.loop.time():.1f} s: {fault.kind} {job_id}")
            task = world.loop.create_task(ask(world, self.ledger, job_id), context=world.own_context.copy())
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)


class _Broken(Exception):
    """A promise about moments was broken: what follows does not matter."""


async def _scenario(world: World, plan: Plan, happening: _Happening) -> list[str]:
    ledger = happening.ledger
    await world.start_all()
    for number in range(plan.jobs):
        await _submit(world, ledger, number)
        await asyncio.sleep(world.rng.choice((0.0, 1.0, 30.0)))
    await _until(world, happening.over, CALM_AFTER_S)
    world.calm_down()
    await world.start_all()
    settled = await _until(world, happening.at_rest, HORIZON_S)
    if ledger.deleted:
        await _let_a_day_pass(world)
    return ([] if settled else [f"not at rest after {HORIZON_S:.0f} s of calm"]) + await violations(world, ledger)


async def _let_a_day_pass(world: World) -> None:
    """Who was stalled wakes, and does what he was about to; then there is nothing to do but the second purge."""
    await asyncio.sleep(_WAKING_S)
    world.kill_all()
    await asyncio.sleep(SECOND_PURGE.total_seconds())
    await world.start(f"{GATEWAY}-0")
    await _until(world, lambda: not world.purges(due_by=world.now() + timedelta(days=2)), HORIZON_S)


async def _submit(world: World, ledger: Ledger, number: int) -> None:
    events = ALL_EVENTS if world.rng.random() < 0.3 else ENDINGS

    async def post() -> InsertedJob:
        """A caller who tries again sends the same key; the gateway gives every request an id of its own."""
        asked = new_job(slip=a_slip(STEPS, hard_limit_s=300.0), key=f"key {number}", callback_events=events)
        return await world.jobs.insert_job(replace(asked, request=a_request(world.new_id())))

    ledger.accepted.append((await until_calm(post)).job_id)


async def _cancel(world: World, ledger: Ledger, job_id: str) -> None:
    async def ask() -> None:
        ledger.cancels[job_id] += 1
        await world.jobs.cancel_job(TENANT, job_id)

    try:
        await until_calm(ask)
        ledger.cancelled.add(job_id)
    except JobFinished:
        if ledger.cancels[job_id] == 1:
            ledger.too_late.add(job_id)
    except JobMissing:
        pass


async def _delete(world: World, ledger: Ledger, job_id: str) -> None:
    with suppress(JobMissing):
        await until_calm(lambda: world.jobs.delete_job(TENANT, job_id))
    ledger.deleted.setdefault(job_id, world.loop.time())


async def _until(world: World, rest: Callable[[], bool], within_s: float) -> bool:
    """Whether it came to that."""
    until = world.loop.time() + within_s
    while not rest():
        if world.watcher.complaints:
            raise _Broken
        if world.loop.time() > until:
            return False
        await asyncio.sleep(_LOOK_EVERY_S)
    return True


@contextmanager
def _quiet(rng: random.Random) -> Iterator[list[str]]:
    """Random ids follow from the seed; logs go nowhere, errors with a traceback are kept."""
    errors = _kept_errors()
    errors.clear()
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # what was killed may be collected in the middle of what it did
    try:
        with inline_sessions(), mock.patch("uuid.uuid4", lambda: uuid.UUID(int=rng.getrandbits(128), version=4)):
            yield errors
    finally:
        sys.unraisablehook = hook


@cache
def _kept_errors() -> list[str]:
    """What this process of ours logs from now on."""
    errors: list[str] = []

    def keep(message: Any) -> None:
        record = message.record
        if record["exception"] is not None:
            errors.append(f"{record['message']}: {record['exception'].value!r}")

    logger.remove()
    logger.add(keep, level="ERROR", format="{message}", backtrace=False, diagnose=False)
    return errors
