"""What a benchmark holds replicas to: no schedule of the same parts is faster."""

from itertools import product

import numpy as np
import pytest

from tests.benchmarks.scale.schedule import Durations, least_seconds


@pytest.mark.parametrize(
    ("parts", "replicas", "seconds"),
    [
        ((), 4, 0.0),
        ((3.0, 1.0), 4, 3.0),
        ((1.0,) * 15, 16, 1.0),
        ((1.0,) * 15, 8, 2.0),
        ((2.0, 2.0, 2.0), 2, 4.0),
        ((5.0, 4.0, 3.0, 2.0), 2, 7.0),
    ],
)
def test_parts_that_fit_evenly_reach_the_bound(parts: tuple[float, ...], replicas: int, seconds: float) -> None:
    """Equal parts come in waves, and nobody ends before the longest."""
    assert least_seconds(parts, replicas) == seconds


def test_no_schedule_is_faster() -> None:
    """Of all ways to give seven parts to one to four replicas, for many durations."""
    rng = np.random.default_rng(1)
    for replicas in (1, 2, 3, 4):
        parts = rng.uniform(1, 5, 7)
        best = min(max(sum(parts[np.array(way) == k]) for k in range(replicas)) for way in product(range(replicas), repeat=7))
        assert 0.85 * best < least_seconds(parts.tolist(), replicas) <= best + 1e-9


def test_rounds_and_the_join_wait_for_each_other() -> None:
    """Splits and the join are nobody's to share."""
    work = Durations(((0.5, (1.0, 1.0)), (0.25, ())), 2.0)
    assert [work.ideal_s(replicas) for replicas in (1, 2, 16)] == [4.75, 3.75, 3.75]
    assert work.work_s == 4.75
