"""The one place that imports pycolmap.

pycolmap exports its own copies of zlib, libpng and libjpeg; what is loaded before it keeps its own. The other way round the
process aborts at the first PNG that OpenCV writes (`free(): invalid pointer`), so the order of these imports matters.
"""

# isort: off
import zlib  # noqa: F401
import cv2
import pycolmap
# isort: on

pycolmap.logging.minloglevel = 3  # its errors are expected outcomes of an attempt here; real ones are raised
pycolmap.logging.logtostderr = True  # no log files in the system's temporary folder
cv2.setNumThreads(1)  # photos are spread over threads instead; the order of results stays the same

DEVICE = pycolmap.Device.auto if pycolmap.has_cuda else pycolmap.Device.cpu

__all__ = ["DEVICE", "pycolmap"]
