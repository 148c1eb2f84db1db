"""How many threads this process may use: the one rule of whatever spreads its work over cores itself."""

import os

_VARIABLES = ("MESHWORK_THREADS", "OMP_NUM_THREADS")  # a worker sets both for its child; by hand either will do


def allowed_cores() -> int:
    """Cores that the system lets this process run on: fewer than the machine has where it is held to some of them."""
    return len(os.sched_getaffinity(0))


def thread_count() -> int:
    """MESHWORK_THREADS, else OMP_NUM_THREADS, never more than the allowed cores; all of these where neither is a positive number."""
    values = (os.environ.get(name, "").strip() for name in _VARIABLES)
    wanted = [int(value) for value in values if value.isdecimal() and int(value) > 0]
    return min([*wanted[:1], allowed_cores()])
