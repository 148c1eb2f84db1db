"""sRGB and linear light (IEC 61966-2-1)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_linear(srgb: NDArray[Any]) -> NDArray[np.float64]:
    """Linear 0..1 from sRGB 0..1."""
    value = np.asarray(srgb, np.float64)
    return np.where(value <= 0.04045, value / 12.92, ((np.maximum(value, 0) + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: NDArray[Any]) -> NDArray[np.float64]:
    """sRGB 0..1 from linear 0..1."""
    value = np.clip(np.asarray(linear, np.float64), 0, 1)
    return np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)


def to_bytes(linear: NDArray[Any]) -> NDArray[np.uint8]:
    """sRGB bytes from linear 0..1."""
    return np.round(255 * to_srgb(linear)).astype(np.uint8)


def linear_table() -> NDArray[np.float64]:
    """Linear value of every sRGB level in steps of 1/16 byte: index = 16 × byte."""
    return to_linear(np.arange(4096) / (16 * 255.0))
