"""Least-squares matching of small patches: the loops; compiled by numba, single-threaded, without the GIL.

Inverse-compositional Lucas-Kanade (Baker and Matthews 2004) with an affine warp. Gain and offset drop out: both patches are brought to zero
mean and unit norm under the window, and the steepest-descent images are made orthogonal to that (Hager and Belhumeur 1998).
"""

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_jit = numba.njit(nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy", cache=True)

HALF = 8  # the window is 17 × 17 pixels of the reference
SIDE = 2 * HALF + 1
STORED = SIDE + 2  # patches carry one more pixel around, for their gradient
_SIGMA = 5.0  # of the window's weight, px
_STEPS = 20
_STILL = 0.01  # a step shorter than this has arrived, px
_FARTHEST = 2.5  # from the start, px: beyond it another place was found
_MIN_CORRELATION = 0.8
_MIN_CONTRAST = 2.0  # standard deviation under the window, grey levels


def _window() -> NDArray[np.float32]:
    y, x = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1]
    weight = np.exp(-0.5 * (x * x + y * y) / _SIGMA**2)
    return np.asarray(weight / weight.sum(), np.float32)


_WEIGHT = _window()


@_jit
def _at(image: Any, x: float, y: float) -> Any:
    """Bilinear, in array indices; the caller has checked the border."""
    column, row = int(x), int(y)
    a, b = np.float32(x - column), np.float32(y - row)
    top = image[row, column] + a * (image[row, column + 1] - image[row, column])
    bottom = image[row + 1, column] + a * (image[row + 1, column + 1] - image[row + 1, column])
    return top + b * (bottom - top)


@_jit
def cut_patches(image: Any, positions: Any, patches: Any, valid: Any) -> None:
    """Patches (n, STORED, STORED) float32 around `positions` (n, 2), array indices of `image` (h, w) float32."""
    h, w = image.shape
    for i in range(len(positions)):
        x, y = positions[i]
        valid[i] = HALF + 2 < x < w - HALF - 3 and HALF + 2 < y < h - HALF - 3
        if valid[i]:
            for r in range(STORED):
                for c in range(STORED):
                    patches[i, r, c] = _at(image, x + c - HALF - 1, y + r - HALF - 1)


@_jit
def _prepare(patch: Any, template: Any, descent: Any) -> Any:
    """Normalised template (SIDE, SIDE) and steepest-descent images (6, SIDE, SIDE); the inverse of their 6 × 6 product, or zeros."""
    mean = 0.0
    for r in range(SIDE):
        for c in range(SIDE):
            mean += _WEIGHT[r, c] * patch[r + 1, c + 1]
    norm = 0.0
    for r in range(SIDE):
        for c in range(SIDE):
            template[r, c] = patch[r + 1, c + 1] - mean
            norm += _WEIGHT[r, c] * template[r, c] ** 2
    product = np.zeros((6, 6))
    if norm < _MIN_CONTRAST**2:
        return product
    scale = 1.0 / math.sqrt(norm)
    along, level = np.zeros(6), np.zeros(6)
    for r in range(SIDE):
        for c in range(SIDE):
            template[r, c] *= scale
            gx = 0.5 * scale * (patch[r + 1, c + 2] - patch[r + 1, c])
            gy = 0.5 * scale * (patch[r + 2, c + 1] - patch[r, c + 1])
            u, v = c - HALF, r - HALF
            descent[0, r, c], descent[1, r, c] = gx, gy
            descent[2, r, c], descent[3, r, c], descent[4, r, c], descent[5, r, c] = gx * u, gx * v, gy * u, gy * v
            for k in range(6):
                along[k] += _WEIGHT[r, c] * descent[k, r, c] * template[r, c]
                level[k] += _WEIGHT[r, c] * descent[k, r, c]
    for r in range(SIDE):
        for c in range(SIDE):
            for k in range(6):
                descent[k, r, c] -= along[k] * template[r, c] + level[k]
            for k in range(6):
                for m in range(k, 6):
                    product[k, m] += _WEIGHT[r, c] * descent[k, r, c] * descent[m, r, c]
    for k in range(6):
        for m in range(k):
            product[k, m] = product[m, k]
        product[k, k] *= 1.0 + 1e-6
    if (
        product[0, 0] * product[1, 1] - product[0, 1] ** 2 < 1e-6 * (product[0, 0] + product[1, 1]) ** 2
        or product[0, 0] + product[1, 1] <= 0
    ):
        return np.zeros((6, 6))
    return np.linalg.inv(product)


@_jit
def _sample(image: Any, x: float, y: float, warp: Any, patch: Any) -> float:
    """The image under the warped window at (x, y), at zero mean and unit norm; its norm, or -1 outside the image."""
    h, w = image.shape
    reach_x, reach_y = HALF * (abs(warp[0, 0]) + abs(warp[0, 1])), HALF * (abs(warp[1, 0]) + abs(warp[1, 1]))
    if not (x - reach_x >= 0.0 and y - reach_y >= 0.0 and x + reach_x < w - 1.001 and y + reach_y < h - 1.001):
        return -1.0
    mean = 0.0
    for r in range(SIDE):
        for c in range(SIDE):
            u, v = c - HALF, r - HALF
            patch[r, c] = _at(image, x + warp[0, 0] * u + warp[0, 1] * v, y + warp[1, 0] * u + warp[1, 1] * v)
            mean += _WEIGHT[r, c] * patch[r, c]
    norm = 0.0
    for r in range(SIDE):
        for c in range(SIDE):
            patch[r, c] -= mean
            norm += _WEIGHT[r, c] * patch[r, c] ** 2
    scale = 1.0 / math.sqrt(max(norm, 1e-12))
    for r in range(SIDE):
        for c in range(SIDE):
            patch[r, c] *= scale
    return math.sqrt(norm)


@_jit
def _align(image: Any, template: Any, descent: Any, inverse: Any, patch: Any, place: Any, warp: Any) -> bool:
    """Moves `place` (2,) and `warp` (2, 2) until the image there looks like the template; whether it does."""
    x0, y0 = place[0], place[1]
    right, step = np.zeros(6), np.zeros(6)
    for _ in range(_STEPS):
        if _sample(image, place[0], place[1], warp, patch) < _MIN_CONTRAST:
            return False
        right[:] = 0.0
        for r in range(SIDE):
            for c in range(SIDE):
                difference = _WEIGHT[r, c] * (patch[r, c] - template[r, c])
                for k in range(6):
                    right[k] += descent[k, r, c] * difference
        for k in range(6):
            step[k] = 0.0
            for m in range(6):
                step[k] += inverse[k, m] * right[m]
        # warp ← warp ∘ (I + D, d)⁻¹
        a, b, c_, d = 1.0 + step[2], step[3], step[4], 1.0 + step[5]
        determinant = a * d - b * c_
        if abs(determinant) < 0.2:
            return False
        ia, ib, ic, id_ = d / determinant, -b / determinant, -c_ / determinant, a / determinant
        tx, ty = -(ia * step[0] + ib * step[1]), -(ic * step[0] + id_ * step[1])
        dx, dy = warp[0, 0] * tx + warp[0, 1] * ty, warp[1, 0] * tx + warp[1, 1] * ty
        w00, w01, w10, w11 = warp[0, 0], warp[0, 1], warp[1, 0], warp[1, 1]
        warp[0, 0], warp[0, 1] = w00 * ia + w01 * ic, w00 * ib + w01 * id_
        warp[1, 0], warp[1, 1] = w10 * ia + w11 * ic, w10 * ib + w11 * id_
        place[0] += dx
        place[1] += dy
        if math.hypot(place[0] - x0, place[1] - y0) > _FARTHEST:
            return False
        if math.hypot(dx, dy) < _STILL:
            break
    else:
        return False
    if _sample(image, place[0], place[1], warp, patch) < _MIN_CONTRAST:
        return False
    correlation = 0.0
    for r in range(SIDE):
        for c in range(SIDE):
            correlation += _WEIGHT[r, c] * patch[r, c] * template[r, c]
    return correlation > _MIN_CORRELATION


@_jit
def align_patches(image: Any, patches: Any, which: Any, places: Any, warps: Any, found: Any) -> None:
    """Finds patch `which[i]` of `patches` (m, STORED, STORED) in `image` (h, w) float32, near `places` (n, 2), array indices, seen through
    `warps` (n, 2, 2), from the reference's pixels to this image's. Both are refined in place; `found` (n,) bool tells where it worked."""
    for i in range(len(places)):
        template = np.empty((SIDE, SIDE), np.float32)
        descent = np.empty((6, SIDE, SIDE), np.float32)
        inverse = _prepare(patches[which[i]], template, descent)
        found[i] = inverse[0, 0] > 0.0 and _align(
            image, template, descent, inverse, np.empty((SIDE, SIDE), np.float32), places[i], warps[i]
        )
