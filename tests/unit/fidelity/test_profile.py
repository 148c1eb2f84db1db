"""The profile of the stages."""

import time

import pytest

from shared.contracts.routing import STAGES
from tests.benchmarks.fidelity.profile import STEPS, Clock, functions_of, table


@pytest.mark.parametrize("stage", STAGES)
def test_every_step_that_is_timed_exists(stage: str) -> None:
    """A function that was renamed would drop out of the profile."""
    assert all(callable(function) for function in functions_of(stage).values())
    assert set(STEPS) == set(STAGES)


def test_seconds_of_inner_steps_are_part_of_the_outer_ones() -> None:
    """Calls are counted, paths are kept, and an inner step's seconds are the outer one's too."""
    clock = Clock()
    inner = clock.timed("inner", lambda: time.sleep(0.01))
    clock.timed("outer", lambda: [inner(), inner()])()
    assert [(path, spent.depth, spent.calls) for path, spent in clock.spent.items()] == [(("outer",), 0, 1), (("outer", "inner"), 1, 2)]
    assert clock.spent["outer",].wall >= clock.spent["outer", "inner"].wall > 0


def test_the_table_is_markdown_with_inner_steps_indented() -> None:
    """One line per step below the header."""
    rows = [
        {"step": "sfm", "depth": 0, "calls": 1, "wall": 2.0, "cpu": 3.0},
        {"step": "match", "depth": 1, "calls": 2, "wall": 1.0, "cpu": 2.0},
    ]
    assert table(rows).splitlines()[2:] == ["| sfm | 1 | 2.00 | 3.00 |", "| · match | 2 | 1.00 | 2.00 |"]
