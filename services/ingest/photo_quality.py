"""How sharp and how well exposed a photo is."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_MEASURED_AT_PX = 1024  # longest side: the same blur in millimetres counts the same whatever the camera's resolution
_WHITE, _BLACK = 250, 5

# A photo is hopeless when its detail is below this share of the others' and below this absolute value (grey levels squared).
HOPELESS_SHARE, HOPELESS_DETAIL = 0.05, 20.0
BLURRED_SHARE = 0.3
CLIPPED_SHARE = 0.25


@dataclass(frozen=True)
class PhotoQuality:
    """`sharpness`: variance of the Laplacian in grey levels squared. `overexposed`, `underexposed`: shares of pixels."""

    sharpness: float
    overexposed: float
    underexposed: float


def measure(rgb: NDArray[np.uint8]) -> PhotoQuality:
    """Of an h×w×3 8-bit RGB image. Sharpness after Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, 2000."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    scale = _MEASURED_AT_PX / max(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    detail = cv2.Laplacian(grey, cv2.CV_32F)
    return PhotoQuality(float(detail.var()), float((grey >= _WHITE).mean()), float((grey <= _BLACK).mean()))


def is_hopeless(sharpness: float, median: float) -> bool:
    """Blurred beyond use, in itself and beside the others: a calm wall must not be taken for a blurred photo."""
    return sharpness < HOPELESS_DETAIL and sharpness < HOPELESS_SHARE * median
