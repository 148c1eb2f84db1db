"""The order of admission, computed from counts, is the order that one would get by letting jobs in one by one."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.database.admission import Line

GROUPS = st.dictionaries(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), st.integers(1, 4))
LOADS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 5))


def one_by_one(loads: dict[str, int], waiting: dict[tuple[str, int], int]) -> list[tuple[str, int, int]]:
    """(tenant, priority, how many of its kind before it), sorted by the rule as it is written down."""
    jobs = []
    for tenant in {tenant for tenant, _ in waiting}:
        turn = loads.get(tenant, 0)
        for priority in sorted({p for each, p in waiting if each == tenant}, reverse=True):
            for before in range(waiting[tenant, priority]):
                turn += 1
                jobs.append((-priority, turn, tenant, before))
    return [(tenant, -priority, before) for priority, _, tenant, before in sorted(jobs)]


@given(LOADS, GROUPS)
def test_places_are_the_order(loads: dict[str, int], waiting: dict[tuple[str, int], int]) -> None:
    """Every waiting job's place is its index in the order."""
    line, order = Line(Counter(loads), Counter(waiting)), one_by_one(loads, waiting)
    assert [line.place_of(*job) for job in order] == list(range(1, len(order) + 1))


@given(LOADS, GROUPS, st.integers(1, 6), st.integers(0, 8))
def test_the_next_are_the_first_that_may_come_in(
    loads: dict[str, int], waiting: dict[tuple[str, int], int], in_flight: int, limit: int
) -> None:
    """In order, never more of a tenant than may be in flight."""
    admitted, expected = Counter(loads), []
    for tenant, priority, _ in one_by_one(loads, waiting):
        if admitted[tenant] < in_flight and len(expected) < limit:
            admitted[tenant] += 1
            expected.append((tenant, priority))
    assert Line(Counter(loads), Counter(waiting)).next_in(in_flight, limit) == expected


def test_a_tenant_with_one_job_does_not_wait_for_one_with_a_thousand() -> None:
    """It is second at most."""
    line = Line(Counter(), Counter({("many", 0): 1000, ("one", 0): 1}))
    assert line.place_of("one", 0, 0) == 2
