"""PatchMatch for one reference photo, compiled by numba; single-threaded and without the GIL, so that one photo runs per core.

A hypothesis at pixel p = (x, y) (index coordinates: the first pixel's centre is (0, 0)) is a plane, kept as inverse depth and its
slope in the image: w(x + dx, y + dy) = w + gx·dx + gy·dy, exact for planes. Handing it to a neighbour is therefore one sum, and the
homography to a source photo is q = A·p + b·w(p), with A = K_s R K_r⁻¹ and b = K_s t (R, t: reference → source camera).
`planes` is (H, W, 4) float32: w, gx, gy, cost; w = 0 where there is none. `best` is (H, W, 2) uint8: the two cheapest sources.

The kernels are long: a call per tap or per candidate would cost a factor. They share one file because numba's cache notices a change of
the caller's file alone, and would go on using a stale callee.
"""

from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.float32]
Bytes = NDArray[np.uint8]

TAPS = 25  # 5×5 over 9×9 pixels (step 2), as OpenMVS
RADIUS = 4
ALONE = 0.3  # what a second source adds at most: undersides and narrow places are seen by two photos, and the others see something else
FAILED = 2.0  # cost of a source that the window does not fit into
_STEP = np.array([(dx, dy) for dy in (-4, -2, 0, 2, 4) for dx in (-4, -2, 0, 2, 4)], np.float32)
_DX = np.ascontiguousarray(_STEP[:, 0])
_DY = np.ascontiguousarray(_STEP[:, 1])
_SPATIAL = np.exp(-(_DX**2 + _DY**2) / np.float32(2 * 3.0**2)).astype(np.float32)
# exp(−|ΔI| / 0.1), looked up by |ΔI| in 1/255: 25 exponentials per pixel would cost as much as an evaluation.
_TONAL = np.exp(-np.arange(256) / 255.0 / 0.1).astype(np.float32)
MIN_DEVIATION = 1.5  # weighted standard deviation of a window (grey 0..255) below which there is nothing to match: JPEG noise
MAX_SLANT = 7.0  # 1 / cos of the steepest viewing angle, 82 degrees
# Candidates of the red-black pattern: every offset has an odd Manhattan length. Near ones first, then strips.
_NEAR = np.array(
    [
        (-1, 0),
        (1, 0),
        (0, -1),
        (0, 1),
        (-2, -1),
        (2, 1),
        (-1, 2),
        (1, -2),
        (-5, 0),
        (5, 0),
        (0, -5),
        (0, 5),
        (-11, 0),
        (11, 0),
        (0, -11),
        (0, 11),
    ],
    np.int32,
)
_TRUSTED = 0.4  # cost of a source's plane that is worth trying here
_KEPT = 4  # cheapest candidates that are evaluated


class Stereo(NamedTuple):
    """A reference photo and its sources at one level. Index coordinates; grey values 0..255."""

    grey: Bytes  # (H, W)
    sources: NDArray[np.uint32]  # all source photos, flat, one after the other, as `with_neighbours` packs them: one fetch per tap
    starts: NDArray[np.int64]  # where each begins
    sizes: NDArray[np.int64]  # (V, 2): width, height
    warps: NDArray[np.float64]  # (V, 12): A row by row, then b; reference → source
    backs: NDArray[np.float64]  # (V, 12): the same, source → reference
    neighbours: Maps  # (V, h, w, 4): the sources' own planes for the geometric term; (V, 1, 1, 4) without it
    intrinsics: NDArray[np.float64]  # fx, fy, cx, cy
    active: NDArray[np.bool_]  # (H, W): pixels to evaluate
    low: float  # inverse depth of hypotheses
    high: float


class Window(NamedTuple):
    """A pixel's window, and where a source is gathered to; 25 values each."""

    weights: Maps  # bilateral, sum 1
    products: Maps  # weight × (value − mean) / deviation
    corners: NDArray[np.int32]
    fu: Maps
    fv: Maps


_jit = nb.njit(nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy", cache=True)
# Whatever kernels call is compiled into them: of several copies of a function the one loaded first is called, whose rounding may differ,
# and a fresh compilation loads in another order than the cache.
_inlined = nb.njit(nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy", cache=True, forceinline=True)


@_inlined
def _random(x: int, y: int, salt: int) -> float:
    """A number in −1..1 that depends on the pixel and the salt alone (32-bit mixing)."""
    # Numba's products of 32 bits have 64: each is cut back.
    h = np.uint32(np.uint32(x) * np.uint32(0x8DA6B343) + np.uint32(y) * np.uint32(0xD8163841) + np.uint32(salt) * np.uint32(0xCB1AB31F))
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    h = h ^ (h >> np.uint32(16))
    return np.float32(h) * np.float32(2.0 / 4294967296.0) - np.float32(1.0)


@_jit
def with_neighbours(grey: Bytes) -> NDArray[np.uint32]:
    """(H, W): each pixel with its right, lower and lower right neighbour, a byte each, lowest first; the last row and column hold zeros."""
    height, width = grey.shape
    packed = np.zeros((height, width), np.uint32)
    for y in range(height - 1):
        for x in range(width - 1):
            lower = np.uint32(grey[y + 1, x]) << np.uint32(16) | np.uint32(grey[y + 1, x + 1]) << np.uint32(24)
            packed[y, x] = np.uint32(grey[y, x]) | np.uint32(grey[y, x + 1]) << np.uint32(8) | lower
    return packed


@_inlined
def _empty_window() -> Window:
    single = np.float32
    return Window(np.empty(TAPS, single), np.empty(TAPS, single), np.empty(TAPS, np.int32), np.empty(TAPS, single), np.empty(TAPS, single))


@_inlined
def _reference_window(grey: Bytes, x: int, y: int, weights: Maps, products: Maps) -> float:
    """Fills bilateral weights (sum 1) and weight × (value − mean) / deviation; returns the weighted deviation."""
    centre = np.int32(grey[y, x])
    total, mean, variance = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for row in range(5):
        for column in range(5):
            k = 5 * row + column
            value = np.int32(grey[y + 2 * row - 4, x + 2 * column - 4])
            weight = _SPATIAL[k] * _TONAL[abs(value - centre)]
            weights[k] = weight
            products[k] = np.float32(value)
            total += weight
            mean += weight * np.float32(value)
    mean /= total
    scale = np.float32(1.0) / total
    for k in range(TAPS):
        weights[k] *= scale
        away = products[k] - mean
        products[k] = weights[k] * away
        variance += products[k] * away
    deviation = np.sqrt(variance)
    scale = np.float32(1.0) / max(deviation, np.float32(1e-3))
    for k in range(TAPS):
        products[k] *= scale
    return deviation


@_inlined
def _view_cost(
    sources: NDArray[np.uint32],
    start: int,
    width: int,
    height: int,
    warp: NDArray[np.float64],
    x: float,
    y: float,
    w: float,
    gx: float,
    gy: float,
    window: Window,
) -> float:
    """1 − bilateral NCC (0..2) of the window against one source, the homography linearised at its centre; FAILED where it does not fit."""
    q0 = warp[0] * x + warp[1] * y + warp[2] + warp[9] * w
    q1 = warp[3] * x + warp[4] * y + warp[5] + warp[10] * w
    q2 = warp[6] * x + warp[7] * y + warp[8] + warp[11] * w
    if q2 <= 1e-9:
        return np.float32(FAILED)
    inverse = 1.0 / q2
    u = np.float32(q0 * inverse)
    v = np.float32(q1 * inverse)
    zx = warp[6] + warp[11] * gx
    zy = warp[7] + warp[11] * gy
    uxx = np.float32((warp[0] + warp[9] * gx - u * zx) * inverse)
    uxy = np.float32((warp[1] + warp[9] * gy - u * zy) * inverse)
    vxx = np.float32((warp[3] + warp[10] * gx - v * zx) * inverse)
    vxy = np.float32((warp[4] + warp[10] * gy - v * zy) * inverse)
    eu = np.float32(RADIUS) * (abs(uxx) + abs(uxy))
    ev = np.float32(RADIUS) * (abs(vxx) + abs(vxy))
    if not (u - eu >= 0 and v - ev >= 0 and u + eu < width - 1 and v + ev < height - 1):
        return np.float32(FAILED)
    weights, products, corners, fu, fv = window
    base, stride = np.int32(start), np.int32(width)
    # Three loops, so that all but the fetches run on whole vectors.
    for k in range(TAPS):
        su = u + uxx * _DX[k] + uxy * _DY[k]
        sv = v + vxx * _DX[k] + vxy * _DY[k]
        iu, iv = np.int32(su), np.int32(sv)
        fu[k] = su - np.float32(iu)
        fv[k] = sv - np.float32(iv)
        corners[k] = base + iv * stride + iu
    for k in range(TAPS):
        corners[k] = np.int32(sources[np.uint32(corners[k])])
    mean, square, covariance = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for k in range(TAPS):
        packed = corners[k]
        a, b = np.float32(packed & 255), np.float32((packed >> 8) & 255)
        c, d = np.float32((packed >> 16) & 255), np.float32((packed >> 24) & 255)
        low, high = a + fu[k] * (b - a), c + fu[k] * (d - c)
        value = low + fv[k] * (high - low)
        weighted = weights[k] * value
        mean += weighted
        square += weighted * value
        covariance += products[k] * value
    variance = square - mean * mean
    if variance < np.float32(0.065):
        return np.float32(1.0)
    return np.float32(1.0) - covariance / np.sqrt(variance)


@_inlined
def _disagreement(warp: NDArray[np.float64], back: NDArray[np.float64], theirs: Maps, x: float, y: float, w: float, most: float) -> float:
    """Forward-backward reprojection error in pixels through a source's own map (H, W, ≥3: w, gx, gy); `most` where it has none."""
    q2 = warp[6] * x + warp[7] * y + warp[8] + warp[11] * w
    if q2 <= 1e-9:
        return most
    u = (warp[0] * x + warp[1] * y + warp[2] + warp[9] * w) / q2
    v = (warp[3] * x + warp[4] * y + warp[5] + warp[10] * w) / q2
    if not (u > -0.5 and v > -0.5 and u < theirs.shape[1] - 0.5 and v < theirs.shape[0] - 0.5):
        return most
    iu = int(u + 0.5)
    iv = int(v + 0.5)
    other = theirs[iv, iu, 0]
    if other <= 0:
        return most
    other += theirs[iv, iu, 1] * (u - iu) + theirs[iv, iu, 2] * (v - iv)
    r2 = back[6] * u + back[7] * v + back[8] + back[11] * other
    if r2 <= 1e-9:
        return most
    ex = (back[0] * u + back[1] * v + back[2] + back[9] * other) / r2 - x
    ey = (back[3] * u + back[4] * v + back[5] + back[10] * other) / r2 - y
    return min(np.sqrt(ex * ex + ey * ey), most)


@_inlined
def _within_slant(intrinsics: NDArray[np.float64], x: float, y: float, w: float, gx: float, gy: float) -> bool:
    """Whether the plane is seen at less than 82 degrees from its normal."""
    rx = (x - intrinsics[2]) / intrinsics[0]
    ry = (y - intrinsics[3]) / intrinsics[1]
    a = intrinsics[0] * gx / w
    b = intrinsics[1] * gy / w
    c = 1.0 - a * rx - b * ry
    return (a * a + b * b + c * c) * (rx * rx + ry * ry + 1.0) < MAX_SLANT * MAX_SLANT


@_inlined
def _evaluate(
    stereo: Stereo,
    geometric: float,
    best_views: int,
    x: int,
    y: int,
    w: float,
    gx: float,
    gy: float,
    window: Window,
    costs: Maps,
    pair: NDArray[np.int64],
    limit: float,
) -> float:
    """Mean cost over the cheapest `best_views` sources; the cheapest may be alone: others count as little worse than that at most.

    `pair`: the pixel's two best sources so far (they are asked first), replaced by this hypothesis' own. Gives up with a cost above
    FAILED, `pair` unchanged, where both are clearly worse than `limit`: what other sources could add is not worth their price.
    """
    count = len(stereo.starts)
    first, second = pair[0], pair[1]
    for turn in range(count):
        if turn == 0:
            view = first
        elif turn == 1:
            view = second
        else:
            view = turn - 2
            if view >= min(first, second):
                view += 1
            if view >= max(first, second):
                view += 1
        cost = _view_cost(
            stereo.sources,
            stereo.starts[view],
            stereo.sizes[view, 0],
            stereo.sizes[view, 1],
            stereo.warps[view],
            x,
            y,
            w,
            gx,
            gy,
            window,
        )
        if geometric > 0 and cost < FAILED:
            cost += geometric * _disagreement(stereo.warps[view], stereo.backs[view], stereo.neighbours[view], x, y, w, 3.0)
        costs[view] = min(cost, np.float32(FAILED))
        if turn == 1 and min(costs[first], costs[second]) > 1.6 * limit + 0.1:
            return np.float32(FAILED + 1.0)
    total, lowest = np.float32(0.0), np.float32(0.0)
    kept = min(best_views, count)
    for rank in range(max(kept, min(2, count))):
        least = -1
        for view in range(count):
            if costs[view] < 1e3 and (least < 0 or costs[view] < costs[least]):
                least = view
        if rank == 0:
            lowest = costs[least]
        if rank < kept:
            total += min(costs[least], lowest + np.float32(ALONE))
        if rank < 2:
            pair[rank] = least
        costs[least] = np.float32(1e4)
    return total / kept


@_inlined
def _pixels_per_inverse_depth(warp: NDArray[np.float64], x: float, y: float, w: float) -> float:
    """How far the pixel moves in a source, in its pixels, per unit of inverse depth."""
    q2 = max(warp[6] * x + warp[7] * y + warp[8] + warp[11] * w, 1e-9)
    u = (warp[0] * x + warp[1] * y + warp[2] + warp[9] * w) / q2
    v = (warp[3] * x + warp[4] * y + warp[5] + warp[10] * w) / q2
    du = (warp[9] - u * warp[11]) / q2
    dv = (warp[10] - v * warp[11]) / q2
    return max(np.sqrt(du * du + dv * dv), 1e-9)


@_jit
def seed_planes(stereo: Stereo, planes: Maps, best: Bytes, best_views: int, tries: int, salt: int) -> None:
    """Costs of the planes that are there, against `tries` random ones; the cheapest stays. Pixels without texture get none (w = 0)."""
    height, width = stereo.grey.shape
    count = len(stereo.starts)
    window, costs = _empty_window(), np.empty(count, np.float32)
    pair = np.empty(2, np.int64)
    for y in range(height):
        for x in range(width):
            w, gx, gy = planes[y, x, 0], planes[y, x, 1], planes[y, x, 2]
            planes[y, x, 0], planes[y, x, 3] = 0.0, FAILED
            if not stereo.active[y, x] or x < RADIUS or y < RADIUS or x >= width - RADIUS or y >= height - RADIUS:
                continue
            if _reference_window(stereo.grey, x, y, window.weights, window.products) < MIN_DEVIATION:
                continue
            least = np.float32(1e3)
            for attempt in range(tries + 1):
                if attempt > 0:
                    w = np.float32(stereo.low + (stereo.high - stereo.low) * 0.5 * (_random(x, y, salt + 3 * attempt) + 1.0))
                    gx = np.float32(0.7 * w / stereo.intrinsics[0] * _random(x, y, salt + 3 * attempt + 1))
                    gy = np.float32(0.7 * w / stereo.intrinsics[1] * _random(x, y, salt + 3 * attempt + 2))
                if w <= 0 or not _within_slant(stereo.intrinsics, x, y, w, gx, gy):
                    continue
                pair[0], pair[1] = 0, min(1, count - 1)
                cost = _evaluate(stereo, 0.0, best_views, x, y, w, gx, gy, window, costs, pair, FAILED)
                if cost < least:
                    least = cost
                    planes[y, x, 0], planes[y, x, 1], planes[y, x, 2], planes[y, x, 3] = w, gx, gy, cost
                    best[y, x, 0], best[y, x, 1] = pair[0], pair[1]


@_jit
def rescore_planes(stereo: Stereo, planes: Maps, best: Bytes, best_views: int, geometric: float) -> None:
    """Costs of the planes that are there, at this level; inactive pixels keep theirs, textureless ones lose them."""
    height, width = stereo.grey.shape
    count = len(stereo.starts)
    window, costs = _empty_window(), np.empty(count, np.float32)
    pair = np.empty(2, np.int64)
    for y in range(height):
        for x in range(width):
            if planes[y, x, 0] <= 0 or not stereo.active[y, x]:
                continue
            if x < RADIUS or y < RADIUS or x >= width - RADIUS or y >= height - RADIUS:
                continue
            # A blank pixel beside an outline was matched by the outline at the coarser level: kept, it would fringe objects with sky.
            if _reference_window(stereo.grey, x, y, window.weights, window.products) < MIN_DEVIATION:
                planes[y, x, 0], planes[y, x, 3] = 0.0, FAILED
                continue
            pair[0], pair[1] = min(best[y, x, 0], count - 1), min(best[y, x, 1], count - 1)
            if pair[0] == pair[1]:
                pair[0], pair[1] = 0, min(1, count - 1)
            planes[y, x, 3] = _evaluate(
                stereo,
                geometric,
                best_views,
                x,
                y,
                planes[y, x, 0],
                planes[y, x, 1],
                planes[y, x, 2],
                window,
                costs,
                pair,
                FAILED,
            )
            best[y, x, 0], best[y, x, 1] = pair[0], pair[1]


@_jit
def exchange_planes(stereo: Stereo, planes: Maps, best: Bytes, best_views: int, geometric: float, settled: float) -> None:
    """Planes of the sources' own maps, tried at the pixels that they are seen at here and that cost `settled` or more so far.

    What few photos see is often found by one of them alone. With w = m·(x, y, 1) in the source, it is Aᵀm / (1 − b·m) here.
    """
    height, width = stereo.grey.shape
    count = len(stereo.starts)
    window, costs = _empty_window(), np.empty(count, np.float32)
    pair = np.empty(2, np.int64)
    for source in range(count):
        theirs, warp, back = stereo.neighbours[source], stereo.warps[source], stereo.backs[source]
        for v in range(stereo.sizes[source, 1]):
            for u in range(stereo.sizes[source, 0]):
                other, cost = np.float64(theirs[v, u, 0]), theirs[v, u, 3]
                q2 = back[6] * u + back[7] * v + back[8] + back[11] * other
                if other <= 0 or cost > _TRUSTED or q2 <= 1e-9:
                    continue
                x = int((back[0] * u + back[1] * v + back[2] + back[9] * other) / q2 + 0.5)
                y = int((back[3] * u + back[4] * v + back[5] + back[10] * other) / q2 + 0.5)
                if x < RADIUS or y < RADIUS or x >= width - RADIUS or y >= height - RADIUS or not stereo.active[y, x]:
                    continue
                current = planes[y, x, 3] if planes[y, x, 0] > 0 else np.float32(FAILED)
                if current < settled:
                    continue
                m0, m1 = np.float64(theirs[v, u, 1]), np.float64(theirs[v, u, 2])
                m2 = other - m0 * u - m1 * v
                scale = 1.0 / max(1.0 - warp[9] * m0 - warp[10] * m1 - warp[11] * m2, 1e-9)
                gx = scale * (warp[0] * m0 + warp[3] * m1 + warp[6] * m2)
                gy = scale * (warp[1] * m0 + warp[4] * m1 + warp[7] * m2)
                w = scale * (warp[2] * m0 + warp[5] * m1 + warp[8] * m2) + gx * x + gy * y
                if w < stereo.low or w > stereo.high or not _within_slant(stereo.intrinsics, x, y, w, gx, gy):
                    continue
                if _reference_window(stereo.grey, x, y, window.weights, window.products) < MIN_DEVIATION:
                    continue
                pair[0], pair[1] = source, 1 if source == 0 and count > 1 else 0
                cost = _evaluate(stereo, geometric, best_views, x, y, w, gx, gy, window, costs, pair, FAILED)
                if cost < current:
                    planes[y, x, 0], planes[y, x, 1], planes[y, x, 2], planes[y, x, 3] = w, gx, gy, cost
                    best[y, x, 0], best[y, x, 1] = pair[0], pair[1]


@_jit
def improve_planes(
    stereo: Stereo, planes: Maps, best: Bytes, best_views: int, geometric: float, colour: int, amplitude: float, settled: float, salt: int
) -> int:
    """One half of a red-black iteration: pixels of one colour try their neighbours' planes, then three small changes.

    `amplitude`: of the changes, in pixels of movement in the best source (at the window's centre for depth, at its edge for slope).
    Pixels whose cost is under `settled` stay as they are. Pixels read the other colour only, so the order of pixels does not matter.
    Returns the number of hypotheses evaluated.
    """
    height, width = stereo.grey.shape
    count = len(stereo.starts)
    window, costs = _empty_window(), np.empty(count, np.float32)
    pair, trial = np.empty(2, np.int64), np.empty(2, np.int64)
    kept_at, kept_cost = np.empty(_KEPT, np.int64), np.empty(_KEPT, np.float32)
    evaluated = 0
    for y in range(RADIUS, height - RADIUS):
        for x in range(RADIUS + ((RADIUS + y + colour) & 1), width - RADIUS, 2):
            if not stereo.active[y, x] or (planes[y, x, 3] < settled and planes[y, x, 0] > 0):
                continue
            found = 0
            for candidate in range(len(_NEAR)):
                cx, cy = x + _NEAR[candidate, 0], y + _NEAR[candidate, 1]
                if cx < 0 or cy < 0 or cx >= width or cy >= height or planes[cy, cx, 0] <= 0:
                    continue
                cost = planes[cy, cx, 3]
                place = found
                while place > 0 and kept_cost[place - 1] > cost:
                    place -= 1
                if place >= _KEPT:
                    continue
                found = min(found + 1, _KEPT)
                for slot in range(found - 1, place, -1):
                    kept_at[slot], kept_cost[slot] = kept_at[slot - 1], kept_cost[slot - 1]
                kept_at[place], kept_cost[place] = candidate, cost
            w, gx, gy, current = planes[y, x, 0], planes[y, x, 1], planes[y, x, 2], planes[y, x, 3]
            if found == 0 and w <= 0:
                continue
            if _reference_window(stereo.grey, x, y, window.weights, window.products) < MIN_DEVIATION:
                continue
            pair[0], pair[1] = min(best[y, x, 0], count - 1), min(best[y, x, 1], count - 1)
            if pair[0] == pair[1]:
                pair[0], pair[1] = 0, min(1, count - 1)
            if w <= 0:
                current = np.float32(FAILED)
            tolerance = 0.05 / _pixels_per_inverse_depth(stereo.warps[pair[0]], x, y, w)
            for slot in range(found + 3):
                if slot < found:
                    cx, cy = x + _NEAR[kept_at[slot], 0], y + _NEAR[kept_at[slot], 1]
                    tx, ty = planes[cy, cx, 1], planes[cy, cx, 2]
                    tw = planes[cy, cx, 0] + tx * np.float32(x - cx) + ty * np.float32(y - cy)
                    # The same plane again: nothing to learn.
                    if w > 0 and abs(tw - w) + RADIUS * (abs(tx - gx) + abs(ty - gy)) < tolerance:
                        continue
                else:
                    if w <= 0:
                        break
                    unit = amplitude / _pixels_per_inverse_depth(stereo.warps[pair[0]], x, y, w)
                    kind = slot - found
                    tw, tx, ty = w, gx, gy
                    if kind != 1:
                        tw = w + np.float32(unit * _random(x, y, salt + 4 * kind))
                    if kind != 0:
                        tx = gx + np.float32(unit / RADIUS * _random(x, y, salt + 4 * kind + 1))
                        ty = gy + np.float32(unit / RADIUS * _random(x, y, salt + 4 * kind + 2))
                if tw < stereo.low or tw > stereo.high or not _within_slant(stereo.intrinsics, x, y, tw, tx, ty):
                    continue
                trial[0], trial[1] = pair[0], pair[1]
                cost = _evaluate(stereo, geometric, best_views, x, y, tw, tx, ty, window, costs, trial, current)
                evaluated += 1
                if cost < current:
                    w, gx, gy, current = tw, tx, ty, cost
                    pair[0], pair[1] = trial[0], trial[1]
            if w > 0:
                planes[y, x, 0], planes[y, x, 1], planes[y, x, 2], planes[y, x, 3] = w, gx, gy, current
                best[y, x, 0], best[y, x, 1] = pair[0], pair[1]
    return evaluated


@_jit
def enlarge_planes(planes: Maps, best: Bytes, height: int, width: int) -> tuple[Maps, Bytes]:
    """The planes of the next finer level, each pixel on its nearest coarse pixel's plane."""
    rows, columns = planes.shape[:2]
    sx, sy = columns / width, rows / height
    finer = np.zeros((height, width, 4), np.float32)
    finer_best = np.zeros((height, width, 2), np.uint8)
    for y in range(height):
        cy = (y + 0.5) * sy - 0.5
        iy = min(max(int(cy + 0.5), 0), rows - 1)
        for x in range(width):
            cx = (x + 0.5) * sx - 0.5
            ix = min(max(int(cx + 0.5), 0), columns - 1)
            if planes[iy, ix, 0] > 0:
                gx, gy = planes[iy, ix, 1], planes[iy, ix, 2]
                finer[y, x, 0] = max(planes[iy, ix, 0] + gx * (cx - ix) + gy * (cy - iy), 1e-9)
                finer[y, x, 1] = gx * sx
                finer[y, x, 2] = gy * sy
                finer[y, x, 3] = planes[iy, ix, 3]
                finer_best[y, x, 0], finer_best[y, x, 1] = best[iy, ix, 0], best[iy, ix, 1]
    return finer, finer_best
