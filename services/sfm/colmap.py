"""The one place that imports pycolmap.

pycolmap exports its own copies of zlib, libpng and libjpeg; what is loaded before it keeps its own. The other way round the
process aborts at the first PNG that OpenCV writes (`free(): invalid pointer`), so the order of these imports matters.
"""

# isort: off
import zlib  # noqa: F401
import cv2
import pycolmap
# isort: on

import os

pycolmap.logging.minloglevel = 3  # its errors are expected outcomes of an attempt here; real ones are raised
pycolmap.logging.logtostderr = True  # no log files in the system's temporary folder
cv2.setNumThreads(1)  # photos are spread over threads instead; the order of results stays the same

DEVICE = pycolmap.Device.auto if pycolmap.has_cuda else pycolmap.Device.cpu


def thread_count() -> int:
    """Cores that this process may use; OMP_NUM_THREADS lowers it."""
    allowed = len(os.sched_getaffinity(0))
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(allowed, int(limit))) if limit.isdigit() else max(1, allowed)


__all__ = ["DEVICE", "pycolmap", "thread_count"]
