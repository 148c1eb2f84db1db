"""Compiled loops between texels and one photo's pixels. Long, because splitting what runs a hundred million times costs speed."""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

LEAST_COVER = 0.25  # texels per pixel below which nothing is known of what the texture shows there


@njit(cache=True, error_model="numpy", forceinline=True)
def _slot_of(view: int, scores: NDArray[Any], views: NDArray[Any], least: float) -> int:
    """Which of a texel's candidates this view is; -1: none, or one with a score of at most `least`."""
    for k in range(len(scores)):
        if scores[k] <= least:
            return -1
        if views[k] == view:
            return k
    return -1


@njit(cache=True, error_model="numpy", forceinline=True)
def _project(point: NDArray[Any], R: NDArray[Any], t: NDArray[Any], K: NDArray[Any]) -> tuple[float, float]:
    """Column and row, 0 at the centre of the first pixel."""
    x, y, z = point[0], point[1], point[2]
    depth = R[2, 0] * x + R[2, 1] * y + R[2, 2] * z + t[2]
    u = K[0, 0] * (R[0, 0] * x + R[0, 1] * y + R[0, 2] * z + t[0]) / depth + K[0, 2]
    v = K[1, 1] * (R[1, 0] * x + R[1, 1] * y + R[1, 2] * z + t[1]) / depth + K[1, 2]
    return u - 0.5, v - 0.5


@njit(cache=True, parallel=True, error_model="numpy")
def render(
    view: int,
    points: NDArray[Any],
    R: NDArray[Any],
    t: NDArray[Any],
    K: NDArray[Any],
    scores: NDArray[Any],
    views: NDArray[Any],
    colours: NDArray[Any],
    gain: NDArray[Any],
    least: float,
    spread: float,
    bands: int,
    sums: NDArray[Any],
) -> None:
    """Adds to `sums` h×w×4 (colour sums in the photo's exposure, and weights) every texel that has this view among its candidates.

    A texel counts in a pixel by the overlap of the pixel's square with its own of `spread` (0.5 to 1) pixels. Every thread goes through
    all texels for a band of rows of its own: the sums have one order, however many bands there are.
    """
    height, width = sums.shape[:2]
    half = 0.5 + 0.5 * spread
    for band in prange(bands):
        first, end = height * band // bands, height * (band + 1) // bands
        for i in range(len(points)):
            if _slot_of(view, scores[i], views[i], least) < 0:
                continue
            u, v = _project(points[i], R, t, K)
            left, top = int(np.floor(u)), int(np.floor(v))
            if top + 1 < first or top >= end or left < 0 or top < 0 or left + 1 >= width or top + 1 >= height:
                continue
            for dy in range(2):
                y = top + dy
                if y < first or y >= end:
                    continue
                down = min(1.0, max(0.0, (half - abs(v - y)) / spread))
                for dx in range(2):
                    weight = down * min(1.0, max(0.0, (half - abs(u - left - dx)) / spread))
                    if weight > 0.0:
                        for c in range(3):
                            sums[y, left + dx, c] += np.float32(weight * colours[i, c] / gain[c])
                        sums[y, left + dx, 3] += np.float32(weight)


@njit(cache=True, parallel=True, error_model="numpy")
def subtract(photo: NDArray[Any], linear: NDArray[Any], sums: NDArray[Any]) -> None:
    """Turns `render`'s sums into what the photo (h×w×3 bytes) has more than them, linear light; the fourth value becomes 1 where known."""
    height, width = sums.shape[:2]
    for y in prange(height):
        for x in range(width):
            cover = sums[y, x, 3]
            for c in range(3):
                sums[y, x, c] = linear[np.int64(photo[y, x, c]) << 4] - sums[y, x, c] / cover if cover > LEAST_COVER else 0.0
            sums[y, x, 3] = 1.0 if cover > LEAST_COVER else 0.0


@njit(cache=True, parallel=True, error_model="numpy")
def collect(
    view: int,
    points: NDArray[Any],
    R: NDArray[Any],
    t: NDArray[Any],
    K: NDArray[Any],
    scores: NDArray[Any],
    views: NDArray[Any],
    colours: NDArray[Any],
    gain: NDArray[Any],
    least: float,
    tolerance: float,
    missing: NDArray[Any],
    change: NDArray[Any],
) -> None:
    """Adds to `change` n×4 (weighted sums, and weights) what a photo misses (`missing` h×w×4 of `subtract`) at each of its texels.

    A difference of more than `tolerance` of the texel's brightness is something else that stands there, and is left out.
    """
    height, width = missing.shape[:2]
    for i in prange(len(points)):
        slot = _slot_of(view, scores[i], views[i], least)
        if slot < 0:
            continue
        u, v = _project(points[i], R, t, K)
        left, top = int(np.floor(u)), int(np.floor(v))
        if left < 0 or top < 0 or left + 1 >= width or top + 1 >= height:
            continue
        fx, fy = u - left, v - top
        difference = np.zeros(4)
        for c in range(4):
            upper = missing[top, left, c] * (1.0 - fx) + missing[top, left + 1, c] * fx
            lower = missing[top + 1, left, c] * (1.0 - fx) + missing[top + 1, left + 1, c] * fx
            difference[c] = upper * (1.0 - fy) + lower * fy
        largest = max(abs(difference[0]) * gain[0], abs(difference[1]) * gain[1], abs(difference[2]) * gain[2])
        level = tolerance * (0.02 + (colours[i, 0] + colours[i, 1] + colours[i, 2]) / 3.0)
        if difference[3] < 0.99 or largest > level:
            continue
        weight = scores[i, slot]
        for c in range(3):
            change[i, c] += np.float32(weight * gain[c] * difference[c])
        change[i, 3] += np.float32(weight)
