"""How sharp and how well exposed a photo is."""

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_MEASURED_AT_PX = 1024  # longest side: the same blur in millimetres counts the same whatever the camera's resolution
_WHITE, _BLACK = 250, 5
_BACKDROP_BLACK = 12  # black velvet is not quite black
_BORDER_SHARE = 0.02  # of the shorter side
_LEAST_OBJECT = 0.2  # of the middle: less than this beside a white or black backdrop is no object but a photo that is all clipped

# Second differences across, down and along both diagonals: a shaken camera blurs along one direction and leaves the others sharp.
_DIRECTIONS = (
    np.array([[1, -2, 1]], np.float32),
    np.array([[1], [-2], [1]], np.float32),
    np.diag([0.5, -1, 0.5]).astype(np.float32),
    np.fliplr(np.diag([0.5, -1, 0.5])).astype(np.float32),
)


@dataclass(frozen=True)
class PhotoQuality:
    """Figures of one photo, measured at 1024 px along the longest side.

    `sharpness`: variance of second differences in grey levels squared, along the direction where it is least.
    `crispness`: the same as a share of what half the resolution has; a photo in focus has 0.2 to 0.7, a blurred one less.
    `overexposed`, `underexposed`: clipped shares of the middle of the photo, without a plain white or black backdrop.
    `white`: share of the whole photo that is clipped. `brightness`: mean of the middle in stops below full scale (0 is white).
    """

    sharpness: float
    crispness: float
    overexposed: float
    underexposed: float
    white: float
    brightness: float

    def rounded(self) -> dict[str, Any]:
        """As it stands in photos.json and in the report."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def measure(rgb: NDArray[np.uint8]) -> PhotoQuality:
    """Of an h×w×3 8-bit RGB image. Second differences as focus measure: Pech-Pacheco et al., ICPR 2000."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    scale = _MEASURED_AT_PX / max(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    fine, coarse = _detail(np.asarray(grey)), _detail(np.asarray(half))
    crispness = float((fine / np.maximum(coarse, 1e-3)).min())
    return PhotoQuality(float(fine.min()), crispness, *_exposure(np.asarray(half)))


def _detail(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.array([cv2.filter2D(grey, cv2.CV_32F, kernel).var() for kernel in _DIRECTIONS], np.float64)


def _exposure(grey: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """overexposed, underexposed, white, brightness."""
    height, width = grey.shape
    middle = np.s_[height // 4 : height - height // 4, width // 4 : width - width // 4]
    plain = _backdrop(grey >= _WHITE) | _backdrop(grey <= _BACKDROP_BLACK)
    values, others = grey[middle], ~plain[middle]
    if others.mean() > _LEAST_OBJECT:
        values = values[others]
    linear = float(((values / 255.0) ** 2.2).mean())
    brightness = float(np.log2(max(linear, 2.0**-12)))
    return float((values >= _WHITE).mean()), float((values <= _BLACK).mean()), float((grey >= _WHITE).mean()), brightness


def _backdrop(clipped: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Clipped pixels that hang together with a border that is clipped for the most part: a backdrop, meant to be so."""
    depth = max(2, round(_BORDER_SHARE * min(clipped.shape)))
    ring = np.ones(clipped.shape, bool)
    ring[depth:-depth, depth:-depth] = False
    if clipped[ring].mean() < 0.5:
        return np.zeros_like(clipped)
    _, labels = cv2.connectedComponents(clipped.astype(np.uint8))
    touching = np.unique(labels[ring & clipped])
    return np.isin(labels, touching[touching > 0])
