"""Work on photos beside each other."""

import threading

import pytest

from services.postprocess.threads import MOST, in_threads


def test_results_come_in_the_order_of_the_items() -> None:
    """Whatever finishes first."""
    assert list(in_threads(lambda i: i * i, range(50))) == [i * i for i in range(50)]


def test_few_results_wait_to_be_taken() -> None:
    """Photos that nobody has asked for yet do not pile up in memory."""
    begun = []
    results = in_threads(begun.append, range(50))
    for _ in range(3):
        next(results)
    assert len(begun) <= 3 + MOST + 1
    results.close()


def test_an_error_reaches_the_caller() -> None:
    """As if the work had been done in place."""

    def work(i: int) -> int:
        if i == 3:
            raise FileNotFoundError(threading.current_thread().name)
        return i

    with pytest.raises(FileNotFoundError):
        list(in_threads(work, range(10)))
