"""Compiled loops of the photometric refinement. Long, because splitting what runs a hundred million times costs speed.

Photos are one flat array of grey bytes: photo v starts at `starts[v]`, has `sizes[v]` = (height, width) pixels; `poses[v]` 3×4 is
(R | t), world → camera; `focal[v]` = (fx, fy, cx, cy) in pixels with the first pixel's centre at 0.5, 0.5.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

MIN_COSINE = 0.12  # views more grazing than this are none
EDGE_REJECT_PX = 1.5  # of a jump in depth, in pixels of the depth buffer
EDGE_FULL_PX = 5.0  # from here on a jump costs nothing
LEAST_COSINE = 0.3  # a patch is stretched by no more than its inverse along the direction in which the best view foreshortens it
APART = 0.9945  # cosine of 6 degrees: of two views closer to each other the better one is enough
NOISE = 2.0  # grey levels of a photo's noise: a patch of less contrast says nothing
LEAST_PARALLAX, MOST_PARALLAX = 0.3, 2.0  # pixels by which two views part per pixel of offset, within which the step follows it
_FAST = {"contract", "reassoc", "arcp", "nsz"}


@njit(cache=True, parallel=True, error_model="numpy")
def rank_view(
    view: int,
    points: NDArray[Any],
    normals: NDArray[Any],
    pose: NDArray[Any],
    focal: NDArray[Any],
    size: NDArray[Any],
    depth: NDArray[Any],
    edge: NDArray[Any],
    scores: NDArray[Any],
    views: NDArray[Any],
) -> None:
    """Enters one view among the best of each vertex; `scores`, `views` n×k are sorted, best first (score 0: none).

    `points`, `normals` n×3 world; `depth`, `edge` h×w buffers (z, and pixels to the nearest jump in depth) over the same field as the
    photo. The score is cosine × resolution × distance to jumps.
    """
    height, width = size[0], size[1]
    buffer_height, buffer_width = depth.shape
    to_x, to_y = buffer_width / width, buffer_height / height
    slots = scores.shape[1]
    cx = -(pose[0, 0] * pose[0, 3] + pose[1, 0] * pose[1, 3] + pose[2, 0] * pose[2, 3])
    cy = -(pose[0, 1] * pose[0, 3] + pose[1, 1] * pose[1, 3] + pose[2, 1] * pose[2, 3])
    cz = -(pose[0, 2] * pose[0, 3] + pose[1, 2] * pose[1, 3] + pose[2, 2] * pose[2, 3])
    for i in prange(len(points)):
        px, py, pz = points[i, 0], points[i, 1], points[i, 2]
        z = pose[2, 0] * px + pose[2, 1] * py + pose[2, 2] * pz + pose[2, 3]
        if z <= 0.0:
            continue
        u = focal[0] * (pose[0, 0] * px + pose[0, 1] * py + pose[0, 2] * pz + pose[0, 3]) / z + focal[2]
        v = focal[1] * (pose[1, 0] * px + pose[1, 1] * py + pose[1, 2] * pz + pose[1, 3]) / z + focal[3]
        if not (u >= 6.0 and v >= 6.0 and u <= width - 6.0 and v <= height - 6.0):
            continue
        dx, dy, dz = cx - px, cy - py, cz - pz
        cosine = (normals[i, 0] * dx + normals[i, 1] * dy + normals[i, 2] * dz) / np.sqrt(dx * dx + dy * dy + dz * dz)
        if cosine < MIN_COSINE:
            continue
        x, y = int(u * to_x), int(v * to_y)
        pixel = z / (focal[0] * to_x)  # size of a buffer pixel at this depth
        if edge[y, x] < EDGE_REJECT_PX or z > depth[y, x] + pixel * (1.0 + 1.5 / cosine):
            continue
        ramp = min(1.0, (edge[y, x] - EDGE_REJECT_PX + 0.5) / (EDGE_FULL_PX - EDGE_REJECT_PX))
        score = np.float32(cosine * ramp * focal[0] / z)
        if score <= scores[i, slots - 1]:
            continue
        k = slots - 1
        while k > 0 and scores[i, k - 1] < score:
            scores[i, k] = scores[i, k - 1]
            views[i, k] = views[i, k - 1]
            k -= 1
        scores[i, k] = score
        views[i, k] = view


@njit(cache=True, parallel=True, error_model="numpy")
def choose_views(points: NDArray[Any], centres: NDArray[Any], scores: NDArray[Any], views: NDArray[Any], most: int) -> NDArray[Any]:
    """Of each vertex's ranked views (n×k) the best ones that look at it from directions apart, n×most int16, -1: none."""
    chosen = np.full((len(points), most), -1, np.int16)
    for i in prange(len(points)):
        rays = np.empty((most, 3))
        count = 0
        for k in range(views.shape[1]):
            if count == most or scores[i, k] <= 0.0:
                break
            ray = centres[views[i, k]] - points[i]
            ray /= np.sqrt((ray * ray).sum())
            apart = True
            for j in range(count):
                if ray[0] * rays[j, 0] + ray[1] * rays[j, 1] + ray[2] * rays[j, 2] > APART:
                    apart = False
            if apart:
                rays[count] = ray
                chosen[i, count] = views[i, k]
                count += 1
    return chosen


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def _sample(
    photos: NDArray[Any], start: int, height: int, width: int, u: float, v: float, J: NDArray[Any], radius: int, patch: NDArray[Any]
) -> float:
    """Bilinear samples of a patch around pixel (u, v) with steps J 2×2, normalised to mean 0 and length 1; returns its standard
    deviation in grey levels, -1 outside of the photo."""
    side = 2 * radius + 1
    reach_u, reach_v = radius * (abs(J[0, 0]) + abs(J[0, 1])), radius * (abs(J[1, 0]) + abs(J[1, 1]))
    if not (u - reach_u >= 0.5 and v - reach_v >= 0.5 and u + reach_u < width - 1.5 and v + reach_v < height - 1.5):
        return -1.0
    total, square = np.float32(0.0), np.float32(0.0)
    for row in range(side):
        x0 = u - 0.5 + (row - radius) * J[0, 1] - radius * J[0, 0]
        y0 = v - 0.5 + (row - radius) * J[1, 1] - radius * J[1, 0]
        for column in range(side):
            x, y = x0 + column * J[0, 0], y0 + column * J[1, 0]
            left, top = int(x), int(y)
            fx, fy = np.float32(x - left), np.float32(y - top)
            at = np.uint64(start + top * width + left)
            below = at + np.uint64(width)
            a, b = np.float32(photos[at]), np.float32(photos[at + np.uint64(1)])
            c, d = np.float32(photos[below]), np.float32(photos[below + np.uint64(1)])
            upper = a + fx * (b - a)
            value = upper + fy * (c + fx * (d - c) - upper)
            patch[row * side + column] = value
            total += value
            square += value * value
    count = side * side
    mean = total / np.float32(count)
    variance = square / np.float32(count) - mean * mean
    if variance < 1e-3:
        return 0.0
    scale = np.float32(1.0) / np.sqrt(np.float32(count) * variance)
    for k in range(count):
        patch[k] = (patch[k] - mean) * scale
    return float(np.sqrt(variance))


@njit(cache=True, parallel=True, error_model="numpy", fastmath=_FAST)
def match(
    points: NDArray[Any],
    normals: NDArray[Any],
    views: NDArray[Any],
    poses: NDArray[Any],
    focal: NDArray[Any],
    photos: NDArray[Any],
    starts: NDArray[Any],
    sizes: NDArray[Any],
    reach: int,
    step_px: float,
    radius: int,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Where along its normal each vertex's photos agree best.

    A patch of (2 radius + 1)² samples, a pixel of the best view apart, in the plane through the vertex is moved along the normal by
    -reach … reach steps; agreement is the mean NCC of all pairs of `views` (n×k, -1: none), each pair weighed by the best it reaches.
    Returns, per vertex: offset (world units, parabola through the best step), weight of it (inverse variance, pixels⁻²; 0: nothing
    known), agreement at offset 0 and at the best one, size of a pixel there (world units; 0: seen by fewer than two).
    """
    count, most = views.shape
    steps, samples = 2 * reach + 1, (2 * radius + 1) ** 2
    offset, weight = np.zeros(count, np.float32), np.zeros(count, np.float32)
    before, after, pixel = np.zeros(count, np.float32), np.zeros(count, np.float32), np.zeros(count)
    for i in prange(count):
        seen = 0
        while seen < most and views[i, seen] >= 0:
            seen += 1
        if seen < 2:
            continue
        n = normals[i]
        # Frame of the patch: e foreshortened by nothing, f by the cosine of the best view.
        best = poses[views[i, 0]]
        p = points[i]
        cam = np.empty(3)
        for r in range(3):
            cam[r] = best[r, 0] * p[0] + best[r, 1] * p[1] + best[r, 2] * p[2] + best[r, 3]
        length = np.sqrt(cam[0] * cam[0] + cam[1] * cam[1] + cam[2] * cam[2])
        ray = np.empty(3)
        for r in range(3):
            ray[r] = -(best[0, r] * cam[0] + best[1, r] * cam[1] + best[2, r] * cam[2]) / length
        cosine = n[0] * ray[0] + n[1] * ray[1] + n[2] * ray[2]
        e = np.array([n[1] * ray[2] - n[2] * ray[1], n[2] * ray[0] - n[0] * ray[2], n[0] * ray[1] - n[1] * ray[0]])
        size_e = np.sqrt(e[0] * e[0] + e[1] * e[1] + e[2] * e[2])
        if size_e < 0.05:
            for r in range(3):
                e[r] = best[0, r] - (best[0, 0] * n[0] + best[0, 1] * n[1] + best[0, 2] * n[2]) * n[r]
            size_e = np.sqrt(e[0] * e[0] + e[1] * e[1] + e[2] * e[2])
        e /= size_e
        f = np.array([n[1] * e[2] - n[2] * e[1], n[2] * e[0] - n[0] * e[2], n[0] * e[1] - n[1] * e[0]])
        unit = cam[2] / focal[views[i, 0], 0]
        pixel[i] = unit
        e *= unit
        f *= unit / max(cosine, LEAST_COSINE)
        # How far the views part on the patch per pixel of offset.
        slope = np.empty((seen, 2))
        for a in range(seen):
            pose = poses[views[i, a]]
            d = np.empty(3)
            for r in range(3):
                d[r] = -(pose[0, r] * pose[0, 3] + pose[1, r] * pose[1, 3] + pose[2, r] * pose[2, 3]) - p[r]
            along = max(n[0] * d[0] + n[1] * d[1] + n[2] * d[2], 1e-9)
            slope[a, 0] = unit * (d[0] * e[0] + d[1] * e[1] + d[2] * e[2]) / along / (e * e).sum()
            slope[a, 1] = unit * (d[0] * f[0] + d[1] * f[1] + d[2] * f[2]) / along / (f * f).sum()
        parallax = 0.0
        for a in range(seen):
            for b in range(a):
                parallax = max(parallax, (slope[a, 0] - slope[b, 0]) ** 2 + (slope[a, 1] - slope[b, 1]) ** 2)
        parallax = min(max(np.sqrt(parallax), LEAST_PARALLAX), MOST_PARALLAX)
        step = step_px * unit / parallax
        # Agreement of every pair at every step.
        patches = np.empty((seen, samples), np.float32)
        contrast = np.full(seen, 1e9)  # the least of a view's patches; below 0 where one leaves the photo
        pairs = np.full((seen, seen, steps), np.float32(-1.0))
        J = np.empty((2, 2))
        for s in range(steps):
            shift = (s - reach) * step
            qx, qy, qz = p[0] + shift * n[0], p[1] + shift * n[1], p[2] + shift * n[2]
            for a in range(seen):
                view = views[i, a]
                pose = poses[view]
                x = pose[0, 0] * qx + pose[0, 1] * qy + pose[0, 2] * qz + pose[0, 3]
                y = pose[1, 0] * qx + pose[1, 1] * qy + pose[1, 2] * qz + pose[1, 3]
                z = pose[2, 0] * qx + pose[2, 1] * qy + pose[2, 2] * qz + pose[2, 3]
                x /= z
                y /= z
                fx, fy = focal[view, 0] / z, focal[view, 1] / z
                depth_e = pose[2, 0] * e[0] + pose[2, 1] * e[1] + pose[2, 2] * e[2]
                depth_f = pose[2, 0] * f[0] + pose[2, 1] * f[1] + pose[2, 2] * f[2]
                J[0, 0] = fx * (pose[0, 0] * e[0] + pose[0, 1] * e[1] + pose[0, 2] * e[2] - x * depth_e)
                J[0, 1] = fx * (pose[0, 0] * f[0] + pose[0, 1] * f[1] + pose[0, 2] * f[2] - x * depth_f)
                J[1, 0] = fy * (pose[1, 0] * e[0] + pose[1, 1] * e[1] + pose[1, 2] * e[2] - y * depth_e)
                J[1, 1] = fy * (pose[1, 0] * f[0] + pose[1, 1] * f[1] + pose[1, 2] * f[2] - y * depth_f)
                u, v = focal[view, 0] * x + focal[view, 2], focal[view, 1] * y + focal[view, 3]
                found = _sample(photos, starts[view], sizes[view, 0], sizes[view, 1], u, v, J, radius, patches[a])
                contrast[a] = min(contrast[a], found)
            for a in range(seen):
                for b in range(a):
                    if contrast[a] > 0.0 and contrast[b] > 0.0:
                        ncc = np.float32(0.0)
                        for k in range(samples):
                            ncc += patches[a, k] * patches[b, k]
                        pairs[a, b, s] = ncc
        total = 0.0
        curve = np.zeros(steps)
        for a in range(seen):
            for b in range(a):
                least = min(contrast[a], contrast[b])
                if least <= 0.0:
                    continue
                # As if noise had lowered it: a faint patch counts less. Alike at all steps, else contrast would be sought, not agreement.
                faint = least * least / (least * least + NOISE * NOISE)
                top = 0.0
                for s in range(steps):
                    top = max(top, faint * pairs[a, b, s])
                total += top * top
                for s in range(steps):
                    curve[s] += top * top * faint * pairs[a, b, s]
        if total < 1e-6:
            continue
        top_step = 0
        for s in range(steps):
            curve[s] /= total
            if curve[s] > curve[top_step]:
                top_step = s
        before[i], after[i] = curve[reach], curve[top_step]
        middle = min(max(top_step, 1), steps - 2)
        bend = 2.0 * curve[middle] - curve[middle - 1] - curve[middle + 1]
        at = float(top_step - middle)
        if bend > 1e-6:
            at = min(max(0.5 * (curve[middle + 1] - curve[middle - 1]) / bend, -1.0), 1.0)
        offset[i] = (middle - reach + at) * step
        steps_px = step / unit
        certain = max(curve[top_step], 0.0) ** 2
        weight[i] = certain * max(bend, 0.0) / (steps_px * steps_px) / (1.02 - min(curve[top_step], 1.0))
    return offset, weight, before, after, pixel


@njit(cache=True, error_model="numpy")
def smooth(
    values: NDArray[Any], weights: NDArray[Any], starts: NDArray[Any], neighbours: NDArray[Any], stiffness: float, sweeps: int
) -> NDArray[Any]:
    """Values n that follow the given ones by their weights and else their neighbours: Jacobi sweeps of
    Σ w (x - value)² + stiffness · Σ (x - mean of neighbours)². Neighbours of i: neighbours[starts[i]:starts[i + 1]]."""
    count = len(values)  # one thread: a sweep is over before others have woken up
    now = np.zeros(count)
    for i in range(count):
        now[i] = values[i] * weights[i] / (weights[i] + stiffness)
    for _ in range(sweeps):
        then = np.empty(count)
        for i in range(count):
            total = 0.0
            for k in range(starts[i], starts[i + 1]):
                total += now[neighbours[k]]
            mean = total / max(starts[i + 1] - starts[i], 1)
            then[i] = (weights[i] * values[i] + stiffness * mean) / (weights[i] + stiffness)
        now = then
    return now
