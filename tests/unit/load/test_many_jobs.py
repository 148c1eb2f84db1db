"""What the benchmark of many jobs calls growth, and what it lets pass."""

from collections.abc import Callable

import pytest

from tests.benchmarks.load.many_jobs import MIB, Outcome, Sample, faults, grown

JOBS = 10_000


def samples(memory_mib: Callable[[int], float], name: str = "gateway-1", every: int = 20) -> list[Sample]:
    """As a run takes them: the process has `memory_mib` after so many jobs."""
    return [Sample(ended / 2.5, ended, {name: int(memory_mib(ended) * MIB)}, {}) for ended in range(0, JOBS + 1, every)]


@pytest.mark.parametrize("kib_a_job", [8, 64])
@pytest.mark.parametrize(("name", "mib"), [("gateway-1", 100), ("sfm-1", 45), ("minio", 100)])
def test_what_keeps_something_of_every_job_grew(name: str, mib: int, kib_a_job: int) -> None:
    """From the first job to the last."""
    found = grown(samples(lambda ended: mib + ended * kib_a_job / 1024, name))
    assert [process for process, _, _ in found] == [name]


@pytest.mark.parametrize(
    "memory_mib",
    [
        lambda ended: 100.0,
        lambda ended: min(100.0, 20 + ended / 30),  # what is filled in the first third
        lambda ended: 62.0 if ended % 300 < 200 else 41.0,  # a child that is begun anew
        lambda ended: 62.0 if ended > JOBS / 2 else 42.0,  # as unlucky as it gets with that
        lambda ended: 400.0 if ended == JOBS else 100.0,  # one moment
    ],
)
def test_what_comes_and_goes_is_no_growth(memory_mib: Callable[[int], float]) -> None:
    """Nor what every process needs to begin with."""
    assert grown(samples(memory_mib)) == []


def test_servers_fill_what_they_were_given_and_no_more() -> None:
    """The run in which RabbitMQ kept its log, 140 to 719 MiB, was one that grew; a log that is begun anew at 64 MiB is none."""
    assert grown(samples(lambda ended: 140 + 0.058 * ended, "rabbitmq")) != []
    assert grown(samples(lambda ended: 150 + ended / 40 % 64, "rabbitmq")) == []
    assert grown(samples(lambda ended: 118 + 45 * ended / JOBS, "postgres")) == []
    assert grown(samples(lambda ended: 118 + 600 * ended / JOBS, "postgres")) != []


def test_a_job_that_is_lost_is_told() -> None:
    """As is one whose caller was not."""
    flat = samples(lambda _: 100.0)
    assert faults(Outcome(JOBS, {"completed": JOBS}, JOBS, flat, {})) == []
    assert faults(Outcome(JOBS, {"completed": JOBS - 1, "failed": 1}, JOBS, flat, {})) == [
        "10,000 jobs, but {'completed': 9999, 'failed': 1}"
    ]
    assert faults(Outcome(JOBS, {"completed": JOBS}, JOBS - 1, flat, {})) == ["10,000 jobs, but 9,999 webhook calls"]


def test_a_short_run_tells_nothing_about_growth() -> None:
    """Forty jobs are three samples."""
    assert grown(samples(lambda ended: 100 + ended, every=4000)) == []
