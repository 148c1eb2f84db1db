"""Compiled loops between texels and one photo's pixels. Long, because splitting what runs a hundred million times costs speed."""

from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

LEAST_COVER = 0.25  # texels per pixel below which nothing is known of what the texture shows there


class Sight(NamedTuple):
    """One photo and the n texels that it may show. Its pose is in the frame of `points`; the first pixel's centre is at 0.5, 0.5."""

    photo: int  # what it is called in `views`
    R: NDArray[Any]
    t: NDArray[Any]
    K: NDArray[Any]
    gain: NDArray[Any]  # (3,): what its linear light is multiplied with
    points: NDArray[Any]  # (n, 3)
    colours: NDArray[Any]  # (n, 3) linear
    scores: NDArray[Any]  # (n, k) of each texel's candidates, best first; 0: none
    views: NDArray[Any]  # (n, k)
    least: float  # score above which a candidate counts


@njit(cache=True, error_model="numpy", forceinline=True)
def _slot_of(sight: Sight, i: int) -> int:
    """Which of the texel's candidates this photo is; -1: none, or one with a score of at most `least`."""
    for k in range(sight.scores.shape[1]):
        if sight.scores[i, k] <= sight.least:
            return -1
        if sight.views[i, k] == sight.photo:
            return k
    return -1


@njit(cache=True, error_model="numpy", forceinline=True)
def _project(sight: Sight, i: int) -> tuple[float, float]:
    """Column and row of a texel, 0 at the centre of the first pixel.

    As `_seen_at` of free_space_kernels, written again: numba's cache notices a change of the caller's file alone, and would go on using a
    stale callee from another file.
    """
    R, t, K = sight.R, sight.t, sight.K
    x, y, z = sight.points[i, 0], sight.points[i, 1], sight.points[i, 2]
    depth = R[2, 0] * x + R[2, 1] * y + R[2, 2] * z + t[2]
    u = K[0, 0] * (R[0, 0] * x + R[0, 1] * y + R[0, 2] * z + t[0]) / depth + K[0, 2]
    v = K[1, 1] * (R[1, 0] * x + R[1, 1] * y + R[1, 2] * z + t[1]) / depth + K[1, 2]
    return u - 0.5, v - 0.5


@njit(cache=True, parallel=True, error_model="numpy")
def render(sight: Sight, spread: float, bands: int, sums: NDArray[Any]) -> None:
    """Adds to `sums` h×w×4 (colour sums in the photo's exposure, and weights) every texel that has the photo among its candidates.

    A texel counts in a pixel by the overlap of the pixel's square with its own of `spread` (0.5 to 1) pixels. Every thread goes through
    all texels for a band of rows of its own: the sums have one order, however many bands there are.
    """
    height, width = sums.shape[:2]
    half = 0.5 + 0.5 * spread
    for band in prange(bands):
        first, end = height * band // bands, height * (band + 1) // bands
        for i in range(len(sight.points)):
            if _slot_of(sight, i) < 0:
                continue
            u, v = _project(sight, i)
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
                            sums[y, left + dx, c] += np.float32(weight * sight.colours[i, c] / sight.gain[c])
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
def collect(sight: Sight, tolerance: float, missing: NDArray[Any], change: NDArray[Any]) -> None:
    """Adds to `change` n×4 (weighted sums, and weights) what the photo misses (`missing` h×w×4 of `subtract`) at each of its texels.

    A difference of more than `tolerance` of the texel's brightness is something else that stands there, and is left out.
    """
    height, width = missing.shape[:2]
    colours, gain = sight.colours, sight.gain
    for i in prange(len(sight.points)):
        slot = _slot_of(sight, i)
        if slot < 0:
            continue
        u, v = _project(sight, i)
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
        weight = sight.scores[i, slot]
        for c in range(3):
            change[i, c] += np.float32(weight * gain[c] * difference[c])
        change[i, 3] += np.float32(weight)
