"""Compiled loops over texels. Long, because splitting what runs a hundred million times costs speed."""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

MIN_COSINE = 0.12  # views more grazing than this are none
EDGE_REJECT_PX = 1.5  # of a depth discontinuity, in pixels of the depth buffer
EDGE_FULL_PX = 6.0  # from here on a discontinuity costs nothing
EDGE_FLOOR = 1e-4  # what is left of the score beside a discontinuity: better than no colour at all


@njit(cache=True)
def rasterise(uv: NDArray[Any], size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Face (size×size, -1: none) and weights of corners 1 and 2 (size×size×2) per texel; `uv` m×3×2 in texels.

    Texels up to one texel outside take the nearest triangle's border, so that bilinear lookups at a chart's rim read true colour.
    """
    face = np.full((size, size), -1, np.int32)
    weights = np.zeros((size, size, 2), np.float32)
    gap = np.full((size, size), np.float32(1.0))
    for beside in range(2):
        reach = 1.0 * beside
        for f in range(len(uv)):
            x0, y0 = uv[f, 0, 0], uv[f, 0, 1]
            ax, ay = uv[f, 1, 0] - x0, uv[f, 1, 1] - y0
            bx, by = uv[f, 2, 0] - x0, uv[f, 2, 1] - y0
            area = ax * by - ay * bx
            if area == 0.0:
                continue
            left = max(int(np.floor(x0 + min(0.0, ax, bx) - reach - 0.5)), 0)
            right = min(int(np.ceil(x0 + max(0.0, ax, bx) + reach)), size - 1)
            top = max(int(np.floor(y0 + min(0.0, ay, by) - reach - 0.5)), 0)
            bottom = min(int(np.ceil(y0 + max(0.0, ay, by) + reach)), size - 1)
            for y in range(top, bottom + 1):
                for x in range(left, right + 1):
                    if beside == 1 and face[y, x] >= 0 and gap[y, x] <= 0.0:
                        continue
                    px, py = x + 0.5 - x0, y + 0.5 - y0
                    first = (px * by - py * bx) / area
                    second = (ax * py - ay * px) / area
                    if first >= 0.0 and second >= 0.0 and first + second <= 1.0:
                        if beside == 0 and face[y, x] < 0:
                            face[y, x] = f
                            weights[y, x, 0] = first
                            weights[y, x, 1] = second
                            gap[y, x] = 0.0
                    elif beside == 1:
                        first = max(first, 0.0)
                        second = max(second, 0.0)
                        total = first + second
                        if total > 1.0:
                            first /= total
                            second /= total
                        dx, dy = first * ax + second * bx - px, first * ay + second * by - py
                        distance = np.float32(np.sqrt(dx * dx + dy * dy))
                        if distance < gap[y, x]:
                            face[y, x] = f
                            weights[y, x, 0] = first
                            weights[y, x, 1] = second
                            gap[y, x] = distance
    return face, weights


@njit(cache=True, parallel=True, error_model="numpy")
def rate_view(
    view: int,
    points: NDArray[Any],
    normals: NDArray[Any],
    R: NDArray[Any],
    t: NDArray[Any],
    K: NDArray[Any],
    depth: NDArray[Any],
    edge: NDArray[Any],
    photo: NDArray[Any],
    reference_scale: float,
    sharpness: float,
    scores: NDArray[Any],
    views: NDArray[Any],
    colours: NDArray[Any],
) -> None:
    """Enters one view among the best of each point; `scores`, `views` (n×k) and `colours` (n×k×3, 256 × sRGB) are sorted, best first.

    `points`, `normals` n×3 float32; `depth`, `edge` h×w buffers (z, and pixels to the nearest discontinuity) over the same field as `photo`
    H×W×3; K in pixels of the photo; score = cosine² × resolution × distance to discontinuities × sharpness.
    """
    height, width = photo.shape[0], photo.shape[1]
    buffer_height, buffer_width = depth.shape
    to_buffer_x, to_buffer_y = buffer_width / width, buffer_height / height
    slots = scores.shape[1]
    centre = -(R.T @ t)
    for i in prange(len(points)):
        px, py, pz = points[i, 0], points[i, 1], points[i, 2]
        z = R[2, 0] * px + R[2, 1] * py + R[2, 2] * pz + t[2]
        if z <= 1e-9:
            continue
        u = K[0, 0] * (R[0, 0] * px + R[0, 1] * py + R[0, 2] * pz + t[0]) / z + K[0, 2]
        v = K[1, 1] * (R[1, 0] * px + R[1, 1] * py + R[1, 2] * pz + t[1]) / z + K[1, 2]
        if not (u >= 1.0 and v >= 1.0 and u <= width - 1.0 and v <= height - 1.0):
            continue
        dx, dy, dz = centre[0] - px, centre[1] - py, centre[2] - pz
        distance = np.sqrt(dx * dx + dy * dy + dz * dz)
        cosine = (normals[i, 0] * dx + normals[i, 1] * dy + normals[i, 2] * dz) / distance
        if cosine < MIN_COSINE:
            continue
        x, y = int(u * to_buffer_x), int(v * to_buffer_y)
        pixel = z / (K[0, 0] * to_buffer_x)  # size of a buffer pixel at this depth
        if z > depth[y, x] + pixel * (2.0 + 2.0 / cosine):
            continue
        ramp = (edge[y, x] - EDGE_REJECT_PX) / (EDGE_FULL_PX - EDGE_REJECT_PX)
        rim = (min(u, v, width - u, height - v) - 1.0) * to_buffer_x / (4.0 * EDGE_FULL_PX)
        border = max(EDGE_FLOOR, min(1.0, ramp, rim))
        score = cosine * cosine * (K[0, 0] / z / reference_scale) * border * sharpness
        if score <= scores[i, slots - 1]:
            continue
        k = slots - 1
        while k > 0 and scores[i, k - 1] < score:
            scores[i, k] = scores[i, k - 1]
            views[i, k] = views[i, k - 1]
            for c in range(3):
                colours[i, k, c] = colours[i, k - 1, c]
            k -= 1
        scores[i, k] = score
        views[i, k] = view
        left, top = int(u - 0.5), int(v - 0.5)
        fx, fy = u - 0.5 - left, v - 0.5 - top
        right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
        for c in range(3):
            upper = photo[top, left, c] * (1.0 - fx) + photo[top, right, c] * fx
            lower = photo[bottom, left, c] * (1.0 - fx) + photo[bottom, right, c] * fx
            colours[i, k, c] = np.uint16(256.0 * (upper * (1.0 - fy) + lower * fy) + 0.5)


@njit(cache=True, parallel=True, error_model="numpy")
def blend(
    scores: NDArray[Any],
    views: NDArray[Any],
    colours: NDArray[Any],
    gains: NDArray[Any],
    linear: NDArray[Any],
    best: int,
    power: float,
    tolerance: float,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Linear colour n×3 of each point and whether any view saw it.

    Views that differ from the median (weighted by score) by more than `tolerance` of its brightness are left out. Of the rest the `best`
    count, by how far each surpasses the next one after them: weights fade to zero before a view leaves the set, so that no seam shows.
    """
    points, slots = scores.shape
    result = np.zeros((points, 3), np.float32)
    seen = np.zeros(points, np.bool_)
    for i in prange(points):
        count = 0
        while count < slots and scores[i, count] > 0.0:
            count += 1
        if count == 0:
            continue
        seen[i] = True
        values = np.empty((slots, 3))
        keep = np.ones(slots, np.bool_)
        for k in range(count):
            for c in range(3):
                values[k, c] = linear[colours[i, k, c] >> 4] * gains[views[i, k], c]
        if count >= 3:
            middle = np.empty(3)
            for c in range(3):
                middle[c] = _weighted_median(values[:count, c], scores[i, :count])
            level = tolerance * (0.02 + (middle[0] + middle[1] + middle[2]) / 3.0)
            for k in range(count):
                difference = (abs(values[k, 0] - middle[0]) + abs(values[k, 1] - middle[1]) + abs(values[k, 2] - middle[2])) / 3.0
                keep[k] = difference <= level
        used, next_score = 0, 0.0
        for k in range(count):
            if keep[k]:
                if used == best:
                    next_score = scores[i, k]
                    break
                used += 1
        total, taken = 0.0, 0
        for k in range(count):
            if keep[k] and taken < max(used, 1):
                taken += 1
                weight = max(scores[i, k] - next_score, 1e-9) ** power
                total += weight
                for c in range(3):
                    result[i, c] += np.float32(weight * values[k, c])
        if total > 0.0:
            for c in range(3):
                result[i, c] /= np.float32(total)
        else:
            for c in range(3):
                result[i, c] = np.float32(values[0, c])
    return result, seen


@njit(cache=True, error_model="numpy")
def _weighted_median(values: NDArray[Any], weights: NDArray[Any]) -> float:
    order = np.argsort(values)
    half = 0.5 * weights.sum()
    total = 0.0
    for k in order:
        total += weights[k]
        if total >= half:
            return float(values[k])
    return float(values[order[-1]])
