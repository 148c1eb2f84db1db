"""`python -m tests.simulation --seeds 1000 [--first 0] [--mutant NAME|all] [--processes 2]`: runs seeds, explains the first that fails.

Returns 1 when a run failed; with --mutant, when no run did. The seed that README.md has for a mutant is tried before the others.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track

from tests.simulation.mutants import MUTANTS, broken
from tests.simulation.plan import FREE
from tests.simulation.processes import outcomes
from tests.simulation.scenario import Outcome, run
from tests.simulation.shrinking import shrunk

ALL = "all"
_README = Path(__file__).with_name("README.md")


def main() -> int:
    """The command line."""
    given = _arguments()
    if given.mutant is None:
        return int(not _all_clean(given))
    caught = [_is_caught(given, name) for name in (sorted(MUTANTS) if given.mutant == ALL else [given.mutant])]
    return int(not all(caught))


def _all_clean(given: argparse.Namespace) -> bool:
    started, runs, failed, steps = time.monotonic(), 0, 0, 0
    found = outcomes(_seeds(given), None, given.processes)
    for outcome in track(found, "seeds", given.seeds, console=Console(stderr=True)):
        runs, failed, steps = runs + 1, failed + bool(outcome.violations), steps + outcome.steps
        if outcome.violations:
            _explain(outcome, None)
            if not given.keep_going:
                break
    print(f"{runs} seeds from {given.first}, {steps:,} steps, {failed} failed, {time.monotonic() - started:.0f} s")
    return not failed


def _is_caught(given: argparse.Namespace, mutant: str) -> bool:
    known = _known_seed(mutant)
    seeds = sorted(_seeds(given), key=lambda seed: seed != known)
    for outcome in outcomes(seeds, mutant, given.processes):
        if outcome.violations:
            print(f"{mutant}: caught by seed {outcome.plan.seed}: {outcome.violations[0]}", flush=True)
            if given.explain:
                _explain(outcome, mutant)
            return True
    print(f"{mutant}: survived {given.seeds} seeds", flush=True)
    return False


def _known_seed(mutant: str) -> int | None:
    """By the table: unless schedules have changed since, no other need be tried."""
    row = re.search(rf"^\| `{mutant}` \|.*?\| (\d+) \|", _README.read_text(), re.MULTILINE)
    return int(row[1]) if row else None


def _explain(outcome: Outcome, mutant: str | None) -> None:
    _show(outcome)
    with broken(mutant):
        shorter = shrunk(outcome, run)
    print("the shortest schedule found:")
    _show(shorter)


def _show(outcome: Outcome) -> None:
    """A failing run, so that somebody can think about it."""
    plan = outcome.plan
    order = "any order" if plan.disorder == FREE else f"{min(plan.disorder, outcome.steps)} free choices"
    print(f"seed {plan.seed}: {plan.jobs} jobs, {order}, slow {plan.slow}, trouble {plan.trouble}, deaf {plan.deaf}, {outcome.steps} steps")
    for line in outcome.log:
        print(f"  {line}")
    for mishap, what in outcome.met:
        print(f"  call {mishap.call}: {mishap.fate} ({mishap.seconds} s): {what}")
    for violation in outcome.violations:
        print(f"  VIOLATED {violation}", flush=True)


def _seeds(given: argparse.Namespace) -> range:
    return range(given.first, given.first + given.seeds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--mutant", choices=[*sorted(MUTANTS), ALL], help="break this line of the protocol: a run must fail")
    parser.add_argument("--explain", action="store_true", help="of a mutant, show the schedule that caught it")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failing seed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
