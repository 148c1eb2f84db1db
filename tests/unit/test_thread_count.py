"""One rule for the number of threads, on a machine of four cores."""

import pytest

from shared.runtime.settings import WorkerSettings
from shared.thread_count import thread_count


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said in the environment."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 5})
    for name in ("MESHWORK_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("meshwork", "omp", "threads"),
    [("", "", 4), ("0", "", 4), ("many", "-1", 4), ("", "3", 3), ("0", "3", 3), ("1", "3", 1), ("3", "1", 3), ("64", "", 4), ("", "64", 4)],
)
def test_the_first_number_counts_up_to_the_cores(monkeypatch: pytest.MonkeyPatch, meshwork: str, omp: str, threads: int) -> None:
    """MESHWORK_THREADS goes before OMP_NUM_THREADS; zero and nonsense are as good as nothing."""
    monkeypatch.setenv("MESHWORK_THREADS", meshwork)
    monkeypatch.setenv("OMP_NUM_THREADS", omp)
    assert thread_count() == threads


def test_an_unset_environment_leaves_all_cores() -> None:
    """Those that this process is allowed, not all of the machine."""
    assert thread_count() == 4


def test_a_worker_without_a_number_gives_its_child_the_allowed_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held to one core of many, its child's libraries do not start a thread for each of the machine's."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {5})
    assert (WorkerSettings().thread_count(), WorkerSettings(threads=2).thread_count()) == (1, 2)
