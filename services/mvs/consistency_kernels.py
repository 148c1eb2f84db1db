"""What several depth maps agree on, and who delivers it; compiled by numba, single-threaded, without the GIL.

Maps are (H, W, 4) float32: inverse depth w (0: none), its slopes gx and gy per pixel, and cost (1 − NCC); index coordinates; warps as in
patchmatch_kernels. Long kernels: one pass over the pixels, nothing stored in between.
"""

import numba as nb
import numpy as np
from numpy.typing import NDArray

_jit = nb.njit(nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy", cache=True)
# As in patchmatch_kernels: a fresh compilation and the cache must give the same bytes.
_inlined = nb.njit(nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy", cache=True, forceinline=True)

SURE_COST = 0.4

Maps = NDArray[np.float32]
Warps = NDArray[np.float64]


@_jit
def agreement(
    planes: Maps, others: Maps, warps: Warps, backs: Warps, most_cost: float, least_views: int, most_px: float, most_depth: float
) -> tuple[Maps, NDArray[np.uint8]]:
    """Inverse depth (H, W) where at least `least_views` of the V sources (`others`: V×h×w×4) see the same surface, averaged with theirs;
    and how many do. The same: forward-backward error under `most_px` pixels and depths within the fraction `most_depth`.
    One view fewer is enough for a pixel that matches very well and is met more closely than that: undersides and narrow places
    are seen by few.
    """
    height, width = planes.shape[:2]
    merged = np.zeros((height, width), np.float32)
    seen_by = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            w = planes[y, x, 0]
            if w <= 0 or planes[y, x, 3] > most_cost:
                continue
            total, count, worst = w, 1, 0.0
            for view in range(len(others)):
                warp, back = warps[view], backs[view]
                q2 = warp[6] * x + warp[7] * y + warp[8] + warp[11] * w
                if q2 <= 1e-9:
                    continue
                u = (warp[0] * x + warp[1] * y + warp[2] + warp[9] * w) / q2
                v = (warp[3] * x + warp[4] * y + warp[5] + warp[10] * w) / q2
                iu, iv = int(np.floor(u + 0.5)), int(np.floor(v + 0.5))
                if iu < 0 or iv < 0 or iu >= others.shape[2] or iv >= others.shape[1]:
                    continue
                other = others[view, iv, iu, 0]
                if other <= 0 or others[view, iv, iu, 3] > most_cost:
                    continue
                other += others[view, iv, iu, 1] * (u - iu) + others[view, iv, iu, 2] * (v - iv)
                expected = w / q2
                if abs(other - expected) > most_depth * expected:
                    continue
                r2 = back[6] * u + back[7] * v + back[8] + back[11] * other
                if r2 <= 1e-9:
                    continue
                ex = (back[0] * u + back[1] * v + back[2] + back[9] * other) / r2 - x
                ey = (back[3] * u + back[4] * v + back[5] + back[10] * other) / r2 - y
                if ex * ex + ey * ey > most_px * most_px:
                    continue
                worst = max(worst, ex * ex + ey * ey)
                total += other / r2 - planes[y, x, 1] * ex - planes[y, x, 2] * ey
                count += 1
            sure = count == least_views and count > 1 and planes[y, x, 3] < SURE_COST and 2 * worst < most_px * most_px
            if count > least_views or sure:
                merged[y, x] = total / count
                seen_by[y, x] = count - 1
    return merged, seen_by


@_jit
def fit_slopes(merged: Maps, radius: int, most_step: float) -> Maps:
    """(H, W, 3): inverse depth and its slopes by least squares over a window, leaving out pixels that differ by more than the fraction
    `most_step`. Slopes are those of the surface, so normals follow from them. Pixels with too few companions get none.
    """
    height, width = merged.shape
    fitted = np.zeros((height, width, 3), np.float32)
    for y in range(height):
        for x in range(width):
            w = merged[y, x]
            if w <= 0:
                continue
            n, sx, sy, sxx, sxy, syy, sv, sxv, syv = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for dy in range(-radius, radius + 1):
                if y + dy < 0 or y + dy >= height:
                    continue
                for dx in range(-radius, radius + 1):
                    if x + dx < 0 or x + dx >= width:
                        continue
                    value = merged[y + dy, x + dx]
                    if value <= 0 or abs(value - w) > most_step * w:
                        continue
                    rise = value - w
                    n += 1.0
                    sx += dx
                    sy += dy
                    sxx += dx * dx
                    sxy += dx * dy
                    syy += dy * dy
                    sv += rise
                    sxv += dx * rise
                    syv += dy * rise
            if n < 6:
                continue
            cxx, cxy, cyy = sxx - sx * sx / n, sxy - sx * sy / n, syy - sy * sy / n
            cxv, cyv = sxv - sx * sv / n, syv - sy * sv / n
            determinant = cxx * cyy - cxy * cxy
            if determinant < 0.05 * cxx * cyy or determinant <= 0:
                continue
            gx = (cxv * cyy - cyv * cxy) / determinant
            gy = (cyv * cxx - cxv * cxy) / determinant
            fitted[y, x, 0] = w
            fitted[y, x, 1] = gx
            fitted[y, x, 2] = gy
    return fitted


@_jit
def camera_normals(fitted: Maps, rows: NDArray[np.int64], columns: NDArray[np.int64], K: NDArray[np.float64]) -> Maps:
    """(n, 3) unit normals of n pixels in camera axes, towards the camera: inverse depth w = m·p makes n ∝ −Kᵀm (K: index coordinates)."""
    normals = np.empty((len(rows), 3), np.float32)
    for i in range(len(rows)):
        x, y = columns[i], rows[i]
        gx, gy = fitted[y, x, 1], fitted[y, x, 2]
        a = K[0, 0] * gx
        b = K[0, 1] * gx + K[1, 1] * gy
        c = K[0, 2] * gx + K[1, 2] * gy + fitted[y, x, 0] - gx * x - gy * y
        scale = -1.0 / max(np.sqrt(a * a + b * b + c * c), 1e-12)
        normals[i, 0], normals[i, 1], normals[i, 2] = a * scale, b * scale, c * scale
    return normals


@_inlined
def _sharpness(w: float, gx: float, gy: float, x: float, y: float, intrinsics: NDArray[np.float64]) -> float:
    """Pixels per length on the surface, across its slope: focal length × inverse depth × cosine of the viewing angle."""
    rx, ry = (x - intrinsics[2]) / intrinsics[0], (y - intrinsics[3]) / intrinsics[1]
    a, b = intrinsics[0] * gx / w, intrinsics[1] * gy / w
    c = 1.0 - a * rx - b * ry
    return intrinsics[0] * w / np.sqrt((a * a + b * b + c * c) * (rx * rx + ry * ry + 1.0))


@_jit
def owned(
    fitted: Maps,
    others: Maps,
    warps: Warps,
    intrinsics: NDArray[np.float64],
    other_intrinsics: NDArray[np.float64],
    earlier: NDArray[np.bool_],
    most_depth: float,
) -> NDArray[np.bool_]:
    """Which pixels this view delivers: those that no source (`others`: V×h×w×3) sees more sharply; `earlier` settles ties.

    Each piece of surface is delivered by the view that sees it best, so views need no common memory and their order does not matter.
    """
    height, width = fitted.shape[:2]
    mine = np.zeros((height, width), np.bool_)
    for y in range(height):
        for x in range(width):
            w = fitted[y, x, 0]
            if w <= 0:
                continue
            own = _sharpness(w, fitted[y, x, 1], fitted[y, x, 2], x, y, intrinsics)
            best = True
            for view in range(len(others)):
                warp = warps[view]
                q2 = warp[6] * x + warp[7] * y + warp[8] + warp[11] * w
                if q2 <= 1e-9:
                    continue
                u = (warp[0] * x + warp[1] * y + warp[2] + warp[9] * w) / q2
                v = (warp[3] * x + warp[4] * y + warp[5] + warp[10] * w) / q2
                iu, iv = int(np.floor(u + 0.5)), int(np.floor(v + 0.5))
                if iu < 0 or iv < 0 or iu >= others.shape[2] or iv >= others.shape[1]:
                    continue
                other = others[view, iv, iu, 0]
                if other <= 0 or abs(other - w / q2) > most_depth * other:
                    continue
                theirs = _sharpness(other, others[view, iv, iu, 1], others[view, iv, iu, 2], iu, iv, other_intrinsics[view])
                # A pixel's own noise must not make both views hand it to the other: near a tie both deliver.
                if theirs > 1.05 * own or (theirs >= own and theirs < 1.0001 * own and earlier[view]):
                    best = False
                    break
            mine[y, x] = best
    return mine
