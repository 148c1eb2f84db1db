"""One gain per photo and colour channel, so that photos of the same surface agree. Solved for all photos together, in linear light."""

import numpy as np
from numpy.typing import NDArray

from services.postprocess.capture import Floats

SAMPLES = 60_000
DARK, BRIGHT = 8 << 8, 247 << 8  # sRGB levels × 256 beyond which a ratio says little
MIN_SHARED = 30  # points that two photos must share
PAIR_CAP = 500.0  # points after which a pair's weight grows no more
DAMPING = 1.0  # pull towards gain 1, in points
MAX_LOG_GAIN = 1.0


def solve_gains(
    scores: NDArray[np.float32], views: NDArray[np.uint16], colours: NDArray[np.uint16], photos: int, linear: Floats, seed: int
) -> Floats:
    """Gains photos×3 with mean log 0: no photo is the reference, the mean of all is.

    `scores`, `views` n×k and `colours` n×k×3 as `texel_kernels.rate_view` leaves them.
    """
    several = np.flatnonzero(scores[:, 1] > 0.05 * scores[:, 0])
    if len(several) > SAMPLES:
        several = np.sort(np.random.default_rng(seed).choice(several, SAMPLES, replace=False))
    usable = (scores[several] > 0) & (colours[several] > DARK).all(2) & (colours[several] < BRIGHT).all(2)
    logs = np.log(linear[colours[several] >> 4] + 1e-6)
    pairs = _pair_ratios(usable, views[several], logs, photos)
    return np.stack([_solve([(i, j, n, ratio[c]) for i, j, n, ratio in pairs], photos) for c in range(3)], 1)


def _pair_ratios(usable: NDArray[np.bool_], views: NDArray[np.uint16], logs: Floats, photos: int) -> list[tuple[int, int, int, Floats]]:
    """(i, j, shared points, median log(i / j) per channel) for every two photos that share enough."""
    first, second, ratio = [], [], []
    for a in range(views.shape[1]):
        for b in range(a + 1, views.shape[1]):
            both = usable[:, a] & usable[:, b]
            swap = views[both, a] > views[both, b]
            first.append(np.where(swap, views[both, b], views[both, a]))
            second.append(np.where(swap, views[both, a], views[both, b]))
            ratio.append((logs[both, a] - logs[both, b]) * np.where(swap, -1, 1)[:, None])
    key = np.concatenate(first).astype(np.int64) * photos + np.concatenate(second)
    order = np.argsort(key, kind="stable")
    key, values = key[order], np.concatenate(ratio)[order]
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.zeros(0, int)
    pairs = []
    for start, stop in zip(starts, np.r_[starts[1:], len(key)], strict=True):
        if stop - start >= MIN_SHARED:
            pairs.append((int(key[start]) // photos, int(key[start]) % photos, int(stop - start), np.median(values[start:stop], axis=0)))
    return pairs


def _solve(pairs: list[tuple[int, int, int, float]], photos: int) -> Floats:
    """exp of the log gains g that minimise Σ w (g_i - g_j + ratio)² with a slight pull to 0."""
    matrix, right = DAMPING * np.eye(photos), np.zeros(photos)
    for i, j, count, ratio in pairs:
        weight = min(float(count), PAIR_CAP)
        matrix[[i, j], [i, j]] += weight
        matrix[[i, j], [j, i]] -= weight
        right[i] -= weight * ratio
        right[j] += weight * ratio
    log_gain = np.linalg.solve(matrix, right)
    return np.asarray(np.exp(np.clip(log_gain - log_gain.mean(), -MAX_LOG_GAIN, MAX_LOG_GAIN)))
