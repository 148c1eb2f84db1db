"""Whatever is killed, lost, repeated or late: every job ends once, says so once, and nothing is left over."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.plan import CRASH_AFTER, Fault, Mishap, Plan
from tests.simulation.scenario import Outcome
from tests.simulation.shrinking import shrunk

FIRST, SEEDS = 10_000, 2000
MUTANT_SEEDS = 10_000

_TRACES = """
import json, sys
from tests.simulation.plan import Plan
from tests.simulation.scenario import run
outcomes = [run(Plan.of(int(seed))) for seed in sys.argv[1:]]
print(json.dumps(sorted([o.plan.seed, o.trace, o.log, [what for _, what in o.met]] for o in outcomes)))
"""


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, in processes of its own."""
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def traces(*seeds: int, hash_seed: str) -> object:
    """What came of these seeds, run in this order by a process whose sets have another order."""
    command = [sys.executable, "-W", "ignore", "-c", _TRACES, *map(str, seeds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": hash_seed})
    return json.loads(done.stdout)


@pytest.mark.timeout(1800)
def test_no_seed_breaks_a_promise() -> None:
    """Two thousand schedules of kills, lost answers, late and repeated calls, stalls, damage, cancels and deletes."""
    done = simulate("--first", str(FIRST), "--seeds", str(SEEDS))
    assert done.returncode == 0 and f"{SEEDS} seeds from {FIRST}, " in done.stdout, done.stdout


@pytest.mark.timeout(1800)
def test_every_broken_line_is_noticed() -> None:
    """Each line of the protocol is there for something: without it a schedule is found that breaks a promise."""
    done = simulate("--seeds", str(MUTANT_SEEDS), "--mutant", "all")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": caught by seed ") == len(MUTANTS)


def test_a_seed_takes_the_same_steps_again() -> None:
    """In another process, after other seeds, and whatever the order of sets."""
    assert traces(1, 2, 3, 4, hash_seed="1") == traces(4, 3, 2, 1, hash_seed="2")


def test_a_failing_schedule_is_shrunk_to_what_it_takes() -> None:
    """Of many faults and mishaps only those that break the promise are left."""
    kills = tuple(Fault(step, "kill", step, 1.0) for step in (100, 300, 500, 700))
    mishaps = tuple(Mishap(call, CRASH_AFTER) for call in range(10))
    plan = Plan(7, 2, (*kills, Fault(900, "delete", 0)), slow=0.1, trouble=0.1, mishaps=mishaps)

    def fails_on_delete(tried: Plan) -> Outcome:
        fails = any(fault.kind == "delete" for fault in tried.faults) and Mishap(3, CRASH_AFTER) in (tried.mishaps or ())
        return Outcome(tried, ["deleted"] if fails else [], [], [(mishap, "") for mishap in tried.mishaps or ()], 0, 0.0, 0)

    smallest = shrunk(fails_on_delete(plan), fails_on_delete).plan
    assert [fault.kind for fault in smallest.faults] == ["delete"]
    assert smallest.mishaps == (Mishap(3, CRASH_AFTER),)
    assert (smallest.jobs, smallest.slow, smallest.trouble, smallest.disorder) == (1, 0.0, 0.0, 0)


def test_what_broke_a_promise_is_told_and_shrunk() -> None:
    """Of a real run: the events that it had, then those that it takes, and what they break."""
    told = simulate("--seeds", str(MUTANT_SEEDS), "--mutant", "one-purge", "--explain").stdout
    whole, marker, shortest = told.partition("the shortest schedule found:")
    assert marker and "VIOLATED" in whole and "VIOLATED" in shortest
    events = [len(re.findall(r"^  (?:step|call) \d+", part, re.MULTILINE)) for part in (whole, shortest)]
    assert 1 <= events[1] <= events[0] and ": delete " in shortest
