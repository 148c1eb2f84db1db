"""Each library says in its own words that memory ran out."""

import errno

import cv2
import numpy as np
import pytest

from shared.runtime.out_of_memory import is_out_of_memory


def raised_from(cause: BaseException) -> Exception:
    error = ValueError("the map could not be made")
    error.__cause__ = cause
    return error


def cv2_error(rows: int, columns: int) -> BaseException:
    """What cv2 raises for a result of this size."""
    with pytest.raises(cv2.error) as caught:
        cv2.resize(np.zeros((8, 8), np.uint8), (columns, rows))
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[Open3D Error] MemoryManagerCPU.cpp:20: CPU malloc failed"),
        RuntimeError("std::bad_alloc"),
        raised_from(MemoryError()),
    ],
)
def test_memory_that_ran_out_is_recognised(error: BaseException) -> None:
    """Also where another error was raised from it."""
    assert is_out_of_memory(error)


def test_opencv_says_it_with_an_error_of_its_own() -> None:
    """An image of 200 TB is out of memory; an empty one is a bug."""
    assert is_out_of_memory(cv2_error(100_000, 2_000_000_000))
    assert not is_out_of_memory(cv2_error(0, 0))


@pytest.mark.parametrize("error", [ValueError("out of memory"), OSError(errno.ENOSPC, "No space left on device"), RuntimeError("a bug")])
def test_other_errors_are_not_taken_for_it(error: BaseException) -> None:
    """A full disk is not memory, and words of a photo's name prove nothing."""
    assert not is_out_of_memory(error)
