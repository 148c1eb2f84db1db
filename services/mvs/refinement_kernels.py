"""Sub-pixel planes for one reference photo: Gauss-Newton on the windows' normalised values, compiled by numba; single-threaded, no GIL.

Layouts as in patchmatch_kernels. Long kernels, and a window of their own: a call per tap would cost a factor, and numba's cache notices a
change of the caller's file alone.
"""

import numba as nb
import numpy as np
from numpy.typing import NDArray

from services.mvs.patchmatch_kernels import Stereo

Maps = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_TAPS = 25  # 5×5 over 9×9 pixels (step 2)
_RADIUS = 4
_FAILED = 2.0
_ALONE = 0.3  # as ALONE in patchmatch_kernels
_DX = np.array([dx for _ in (-4, -2, 0, 2, 4) for dx in (-4, -2, 0, 2, 4)], np.float32)
_DY = np.array([dy for dy in (-4, -2, 0, 2, 4) for _ in (-4, -2, 0, 2, 4)], np.float32)
_SPATIAL = np.exp(-(_DX**2 + _DY**2) / np.float32(2 * 3.0**2)).astype(np.float32)
_TONAL = np.exp(-np.arange(256) / 255.0 / 0.1).astype(np.float32)
_ALIKE = 20  # grey levels
_BLANK = 2.5  # standard deviation of those alike, grey levels: JPEG noise beside an outline
_SLOPE_PRIOR = 0.3  # of a slope's change by one pixel at the window's edge, against the squared gradients of normalised values
_USABLE_COST = 0.5  # sources that match worse have no say
_HOPELESS_COST = 0.9  # sources that match worse at first are not asked again
_MOST_STEP_PX = 0.7
_SMALL_STEP_PX = 0.03

_jit = nb.njit(nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy", cache=True)
# As in patchmatch_kernels: a fresh compilation and the cache must give the same bytes.
_inlined = nb.njit(nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy", cache=True, forceinline=True)


@_inlined
def _window(grey: Bytes, x: int, y: int, weights: Maps, products: Maps) -> float:
    """Bilateral weights (sum 1) and weight × (value − mean) / deviation; returns the weighted deviation (grey 0..255), 0 where what looks
    like the centre is blank: the outline beside it would fringe the object with background.
    """
    centre = np.int32(grey[y, x])
    total, mean, variance = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    alike, sum_alike, square_alike = 0, 0, 0
    for row in range(5):
        for column in range(5):
            k = 5 * row + column
            value = np.int32(grey[y + 2 * row - 4, x + 2 * column - 4])
            weight = _SPATIAL[k] * _TONAL[abs(value - centre)]
            weights[k] = weight
            products[k] = np.float32(value)
            total += weight
            mean += weight * np.float32(value)
            away = int(value - centre)
            if abs(away) <= _ALIKE:
                alike += 1
                sum_alike += away
                square_alike += away * away
    if alike < _TAPS and square_alike * alike - sum_alike * sum_alike < _BLANK * _BLANK * alike * alike:
        return 0.0
    mean /= total
    scale = np.float32(1.0) / total
    for k in range(_TAPS):
        weights[k] *= scale
        centred = products[k] - mean
        products[k] = weights[k] * centred
        variance += products[k] * centred
    deviation = np.sqrt(variance)
    scale = np.float32(1.0) / max(deviation, np.float32(1e-3))
    for k in range(_TAPS):
        products[k] *= scale
    return float(deviation)


@_inlined
def _gather(
    sources: NDArray[np.uint32],
    start: int,
    width: int,
    height: int,
    warp: NDArray[np.float64],
    x: float,
    y: float,
    plane: NDArray[np.float64],
    corners: NDArray[np.int32],
    fu: Maps,
    fv: Maps,
    along: NDArray[np.float64],
) -> bool:
    """Fills the taps' four corner values and fractions in a source, and `along`: its movement (u, v) per inverse depth. Whether it fits."""
    w, gx, gy = plane[0], plane[1], plane[2]
    q2 = warp[6] * x + warp[7] * y + warp[8] + warp[11] * w
    if q2 <= 1e-9:
        return False
    inverse = 1.0 / q2
    u = (warp[0] * x + warp[1] * y + warp[2] + warp[9] * w) * inverse
    v = (warp[3] * x + warp[4] * y + warp[5] + warp[10] * w) * inverse
    along[0] = (warp[9] - u * warp[11]) * inverse
    along[1] = (warp[10] - v * warp[11]) * inverse
    zx, zy = warp[6] + warp[11] * gx, warp[7] + warp[11] * gy
    u32, v32 = np.float32(u), np.float32(v)
    uxx = np.float32((warp[0] + warp[9] * gx - u * zx) * inverse)
    uxy = np.float32((warp[1] + warp[9] * gy - u * zy) * inverse)
    vxx = np.float32((warp[3] + warp[10] * gx - v * zx) * inverse)
    vxy = np.float32((warp[4] + warp[10] * gy - v * zy) * inverse)
    eu = np.float32(_RADIUS) * (abs(uxx) + abs(uxy))
    ev = np.float32(_RADIUS) * (abs(vxx) + abs(vxy))
    if not (u32 - eu >= 0 and v32 - ev >= 0 and u32 + eu < width - 1 and v32 + ev < height - 1):
        return False
    base, stride = np.int32(start), np.int32(width)
    for k in range(_TAPS):
        su = u32 + uxx * _DX[k] + uxy * _DY[k]
        sv = v32 + vxx * _DX[k] + vxy * _DY[k]
        iu, iv = np.int32(su), np.int32(sv)
        fu[k] = su - np.float32(iu)
        fv[k] = sv - np.float32(iv)
        corners[k] = base + iv * stride + iu
    for k in range(_TAPS):
        corners[k] = np.int32(sources[np.uint32(corners[k])])
    return True


@_inlined
def _add_equations(
    weights: Maps, products: Maps, corners: NDArray[np.int32], fu: Maps, fv: Maps, gu: float, gv: float, system: NDArray[np.float64]
) -> float:
    """1 − NCC of the gathered window; adds its normal equations to `system` (6 of the matrix, 3 of the right side), weighted by its match.

    Unknowns: movement in pixels of the reference's depth unit at the centre, and at the window's edge in x and in y; `gu`, `gv`: movement
    in the source per unit. Residuals are differences of normalised values, so gain and offset drop out.
    """
    s, ss, rs = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    m0, m1, m2 = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    p0, p1, p2 = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    r0, r1, r2 = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    a00, a01, a02 = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    a11, a12, a22 = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    gu32, gv32 = np.float32(gu), np.float32(gv)
    quarter = np.float32(1.0 / _RADIUS)
    for k in range(_TAPS):
        packed = corners[k]
        a, b = np.float32(packed & 255), np.float32((packed >> 8) & 255)
        c, d = np.float32((packed >> 16) & 255), np.float32((packed >> 24) & 255)
        low, high = a + fu[k] * (b - a), c + fu[k] * (d - c)
        across = (b - a) + fv[k] * ((d - c) - (b - a))
        down = high - low
        value = low + fv[k] * down
        g = gu32 * across + gv32 * down
        gx, gy = g * _DX[k] * quarter, g * _DY[k] * quarter
        wv, wg, wx, wy = weights[k] * value, weights[k] * g, weights[k] * gx, weights[k] * gy
        s += wv
        ss += wv * value
        rs += products[k] * value
        m0 += wg
        m1 += wx
        m2 += wy
        p0 += wg * value
        p1 += wx * value
        p2 += wy * value
        r0 += products[k] * g
        r1 += products[k] * gx
        r2 += products[k] * gy
        a00 += wg * g
        a01 += wg * gx
        a02 += wg * gy
        a11 += wx * gx
        a12 += wx * gy
        a22 += wy * gy
    variance = ss - s * s
    if variance < np.float32(0.065):
        return 1.0
    inverse = np.float32(1.0) / np.sqrt(variance)
    ncc = float(rs * inverse)
    share = 1.0 - (1.0 - ncc) / _USABLE_COST
    if share <= 0:
        return 1.0 - ncc
    p0, p1, p2 = (p0 - s * m0) * inverse, (p1 - s * m1) * inverse, (p2 - s * m2) * inverse
    square = share * inverse * inverse
    system[0] += square * (a00 - m0 * m0 - p0 * p0)
    system[1] += square * (a01 - m0 * m1 - p0 * p1)
    system[2] += square * (a02 - m0 * m2 - p0 * p2)
    system[3] += square * (a11 - m1 * m1 - p1 * p1)
    system[4] += square * (a12 - m1 * m2 - p1 * p2)
    system[5] += square * (a22 - m2 * m2 - p2 * p2)
    system[6] += share * inverse * (r0 - ncc * p0)
    system[7] += share * inverse * (r1 - ncc * p1)
    system[8] += share * inverse * (r2 - ncc * p2)
    return 1.0 - ncc


@_jit
def refine_planes(
    stereo: Stereo, planes: Maps, best: Bytes, best_views: int, iterations: int, settled: float, least_deviation: float
) -> None:
    """Moves every plane to where its window matches all usable sources best; costs become those before the last step.

    Blank windows lose their planes; pixels of less than `settled` cost stay as they are.
    Steps are at most 0.7 pixels, so what is wrong by more stays wrong, with its cost.
    """
    height, width = stereo.grey.shape
    count = len(stereo.starts)
    weights, products = np.empty(_TAPS, np.float32), np.empty(_TAPS, np.float32)
    corners, fu, fv = np.empty(_TAPS, np.int32), np.empty(_TAPS, np.float32), np.empty(_TAPS, np.float32)
    plane, along, system = np.empty(3), np.empty(2), np.empty(9)
    costs = np.empty(count, np.float32)
    for y in range(height):
        for x in range(width):
            if planes[y, x, 0] <= 0 or not stereo.active[y, x] or planes[y, x, 3] < settled:
                continue
            if x < _RADIUS or y < _RADIUS or x >= width - _RADIUS or y >= height - _RADIUS:
                continue
            if _window(stereo.grey, x, y, weights, products) < least_deviation:
                planes[y, x, 0], planes[y, x, 3] = 0.0, _FAILED
                continue
            plane[0], plane[1], plane[2] = planes[y, x, 0], planes[y, x, 1], planes[y, x, 2]
            first_x, first_y = plane[1], plane[2]
            unit = 0.0
            for iteration in range(iterations):
                system[:] = 0.0
                for view in range(count):
                    if iteration > 0 and costs[view] > _HOPELESS_COST:
                        continue
                    costs[view] = _FAILED
                    fits = _gather(
                        stereo.sources,
                        stereo.starts[view],
                        stereo.sizes[view, 0],
                        stereo.sizes[view, 1],
                        stereo.warps[view],
                        x,
                        y,
                        plane,
                        corners,
                        fu,
                        fv,
                        along,
                    )
                    if not fits:
                        continue
                    if unit <= 0.0:
                        unit = 1.0 / max(np.sqrt(along[0] * along[0] + along[1] * along[1]), 1e-9)
                    costs[view] = _add_equations(weights, products, corners, fu, fv, along[0] * unit, along[1] * unit, system)
                if unit <= 0.0:
                    break
                edge = unit / _RADIUS
                a00, a11, a22 = system[0] + 1e-4, system[3] + _SLOPE_PRIOR, system[5] + _SLOPE_PRIOR
                a01, a02, a12 = system[1], system[2], system[4]
                b0 = system[6]
                b1 = system[7] + _SLOPE_PRIOR * (first_x - plane[1]) / edge
                b2 = system[8] + _SLOPE_PRIOR * (first_y - plane[2]) / edge
                c00, c01, c02 = a11 * a22 - a12 * a12, a02 * a12 - a01 * a22, a01 * a12 - a02 * a11
                determinant = a00 * c00 + a01 * c01 + a02 * c02
                if determinant <= 1e-12:
                    break
                d0 = (c00 * b0 + c01 * b1 + c02 * b2) / determinant
                d1 = (c01 * b0 + (a00 * a22 - a02 * a02) * b1 + (a01 * a02 - a00 * a12) * b2) / determinant
                d2 = (c02 * b0 + (a01 * a02 - a00 * a12) * b1 + (a00 * a11 - a01 * a01) * b2) / determinant
                most = max(abs(d0), abs(d1), abs(d2))
                scale = min(1.0, _MOST_STEP_PX / max(most, 1e-9))
                plane[0] += scale * d0 * unit
                plane[1] += scale * d1 * edge
                plane[2] += scale * d2 * edge
                if most < _SMALL_STEP_PX:
                    break
            if plane[0] < stereo.low or plane[0] > stereo.high:
                planes[y, x, 0], planes[y, x, 3] = 0.0, _FAILED
                continue
            total, lowest, kept = np.float32(0.0), np.float32(0.0), min(best_views, count)
            for rank in range(max(kept, min(2, count))):
                least = -1
                for view in range(count):
                    if costs[view] < 1e3 and (least < 0 or costs[view] < costs[least]):
                        least = view
                if rank == 0:
                    lowest = costs[least]
                if rank < kept:
                    total += min(costs[least], lowest + np.float32(_ALONE))
                if rank < 2:
                    best[y, x, rank] = least
                costs[least] = np.float32(1e4)
            planes[y, x, 0], planes[y, x, 1], planes[y, x, 2], planes[y, x, 3] = plane[0], plane[1], plane[2], total / kept
