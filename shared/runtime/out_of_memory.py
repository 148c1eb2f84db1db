"""Memory that ran out, in the words of each library that a stage may use."""

import errno
from collections.abc import Iterator

_CV2_NO_MEMORY = -4  # cv::Error::StsNoMem; cv2.error is no MemoryError
# Open3D, onnxruntime, numba's and other runtimes raise RuntimeError or an error of their own with these words.
_WORDS = ("bad_alloc", "bad allocation", "malloc failed", "failed to allocate memory", "cannot allocate memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error, or the one it was raised from, says that there was no memory left. Knows libraries by name alone."""
    return any(_says_so(link) for link in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if type(error).__module__ == "cv2":
        return getattr(error, "code", None) == _CV2_NO_MEMORY
    library = isinstance(error, RuntimeError) or type(error).__module__.partition(".")[0] in {"onnxruntime", "open3d", "pycolmap"}
    return library and any(word in str(error).lower() for word in _WORDS)
