"""Compiled loops over points that are compared with what a view saw in their direction."""

from typing import Any

from numba import njit, prange
from numpy.typing import NDArray


@njit(cache=True, error_model="numpy")
def _seen_at(point: NDArray[Any], R: NDArray[Any], t: NDArray[Any], K: NDArray[Any]) -> tuple[float, float, float]:
    """Depth of a point (world) in front of a view, and its pixel."""
    x, y, z = point[0], point[1], point[2]
    depth = R[2, 0] * x + R[2, 1] * y + R[2, 2] * z + t[2]
    u = K[0, 0] * (R[0, 0] * x + R[0, 1] * y + R[0, 2] * z + t[0]) / depth + K[0, 2]
    v = K[1, 1] * (R[1, 0] * x + R[1, 1] * y + R[1, 2] * z + t[1]) / depth + K[1, 2]
    return depth, u, v


@njit(cache=True, parallel=True, error_model="numpy")
def count_votes(
    points: NDArray[Any],
    R: NDArray[Any],
    t: NDArray[Any],
    K: NDArray[Any],
    stored: NDArray[Any],
    levels: NDArray[Any],
    margin: float,
    against: NDArray[Any],
    support: NDArray[Any],
) -> None:
    """Adds one view's votes on points n×3: `against` where it looked through the point at something more than `margin` behind it,
    `support` where it saw a surface within `margin` of it. Inverse depths are `levels` (65,536, float32; 0: nothing seen) of what is
    `stored` (h×w, uint16)."""
    height, width = stored.shape
    for i in prange(len(points)):
        depth, u, v = _seen_at(points[i], R, t, K)
        if not (depth > 0.0 and u >= 0.0 and v >= 0.0 and u < width and v < height):
            continue
        seen = levels[stored[int(v), int(u)]]
        if seen <= 0.0:
            continue
        behind = 1.0 / seen - depth
        if behind > margin:
            against[i] += 1
        elif behind > -margin:
            support[i] += 1


@njit(cache=True, parallel=True, error_model="numpy")
def count_through(
    points: NDArray[Any], R: NDArray[Any], t: NDArray[Any], K: NDArray[Any], open_pixels: NDArray[Any], count: NDArray[Any]
) -> None:
    """Adds one for each point n×3 (world) that the view, with its pose and intrinsics, has in one of its open pixels h×w."""
    height, width = open_pixels.shape
    for i in prange(len(points)):
        depth, u, v = _seen_at(points[i], R, t, K)
        if depth > 0.0 and u >= 0.0 and v >= 0.0 and u < width and v < height and open_pixels[int(v), int(u)]:
            count[i] += 1
