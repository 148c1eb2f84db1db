"""The seeds run beside the other tests, which wait more than they compute, and with what these leave of the processors."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

FIRST, SEEDS = 10_000, 2000
BESIDE_OTHERS = "test_no_seed_breaks_a_promise"


class Seeds:
    """`python -m tests.simulation` in the background."""

    def __init__(self) -> None:
        command = ["nice", sys.executable, "-m", "tests.simulation", "--first", str(FIRST), "--seeds", str(SEEDS)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def result(self) -> tuple[int, str]:
        """Exit status and what was printed, once it has ended."""
        printed, _ = self._process.communicate()
        return self._process.returncode, printed

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait()


_RUNNING = pytest.StashKey[Seeds]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begins with the first test, if the one that asks for the seeds is to be run at all."""
    if not session.config.option.collectonly and any(item.name == BESIDE_OTHERS for item in session.items):
        session.config.stash[_RUNNING] = Seeds()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Whatever ends the tests ends the seeds."""
    if (seeds := config.stash.get(_RUNNING, None)) is not None:
        seeds.close()


@pytest.fixture
def seeds(pytestconfig: pytest.Config) -> Iterator[Seeds]:
    """What was begun with the first test."""
    yield pytestconfig.stash[_RUNNING]
