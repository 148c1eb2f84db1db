"""The shortest schedule of a failing run that can be found by leaving things out."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.simulation.plan import Fault, Mishap, Plan
from tests.simulation.scenario import Outcome

Run = Callable[[Plan], Outcome]
_TRIES = 150


def shrunk(failed: Outcome, run: Run, tries: int = _TRIES) -> Outcome:
    """Leaves out faults, mishaps, noise, jobs and disorder for as long as the run still fails, at most `tries` times."""
    best = run(failed.explicit)
    if not best.violations:
        return failed  # it does not fail without the draw: nothing can be left out
    simpler = _simpler(best.plan)
    for _ in range(tries):
        plan = next(simpler, None)
        if plan is None:
            break
        outcome = run(plan)
        if outcome.violations:
            best = outcome
            simpler = _simpler(best.plan)
    return best


def _simpler(plan: Plan) -> Iterator[Plan]:
    """Plans with less in them, the boldest first."""
    events = [*plan.faults, *(plan.mishaps or ())]
    size = (len(events) + 1) // 2
    while size:
        for start in range(0, len(events), size):
            yield _without(plan, events[start : start + size])
        size //= 2
    yield from _quieter(plan)


def _without(plan: Plan, events: list[Fault | Mishap]) -> Plan:
    faults = tuple(fault for fault in plan.faults if fault not in events)
    return replace(plan, faults=faults, mishaps=tuple(mishap for mishap in plan.mishaps or () if mishap not in events))


def _quieter(plan: Plan) -> Iterator[Plan]:
    for name in ("slow", "trouble", "deaf"):
        if getattr(plan, name):
            yield replace(plan, **{name: 0.0})
    if plan.jobs > 1:
        yield replace(plan, jobs=plan.jobs - 1)
    for limit in (0, plan.disorder // 4, plan.disorder // 2):
        if limit < plan.disorder:
            yield replace(plan, disorder=limit)
