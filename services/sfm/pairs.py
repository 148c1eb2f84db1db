"""Which pairs of photos are worth matching."""

from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from services.sfm.features import Features
from services.sfm.pair_ranking import Pairs, promising, quick_look
from services.sfm.params import SfmParams

WORDS = 64  # of the visual vocabulary, learned from the job's own photos
SAMPLED = 200  # descriptors of each photo that the vocabulary is learned from
SIMILAR = 20  # look-alikes that each photo is compared with, wherever they are in the order


def select_pairs(features: list[Features], params: SfmParams, thorough: bool = False) -> Pairs:
    """Sorted pairs of indices (i < j). Candidates are all pairs, or neighbours in the order sent and look-alikes. Each photo keeps those
    that a quick look likes best, unless `thorough`, or asked for all."""
    count = len(features)
    if params.matching == "exhaustive":
        return list(combinations(range(count), 2))
    candidates = _nearby(features, params) if seeks_look_alikes(count, params) else list(combinations(range(count), 2))
    return candidates if thorough else promising(candidates, quick_look(features, candidates), count)


def seeks_look_alikes(count: int, params: SfmParams) -> bool:
    """Whether candidates among `count` photos depend on all of their features; if not, a quick look's share of them is enough."""
    return params.matching == "sequential" or (params.matching == "auto" and count > params.exhaustive_up_to)


def _nearby(features: list[Features], params: SfmParams) -> Pairs:
    return sorted(set(neighbours(len(features), params.sequential_overlap)) | set(look_alikes(features, params.random_seed)))


def neighbours(count: int, overlap: int) -> Pairs:
    """Each photo with the next `overlap`, and with those 2, 4, 8, … further."""
    steps = sorted({*range(1, overlap + 1), *(2**k for k in range(count.bit_length()))})
    return [(i, i + step) for i in range(count) for step in steps if i + step < count]


def look_alikes(features: list[Features], seed: int, similar: int = SIMILAR) -> Pairs:
    """Each photo with the `similar` ones most like it: closes loops, and finds neighbours in unordered sets."""
    signatures = vlad(features, seed)
    likeness = signatures @ signatures.T
    np.fill_diagonal(likeness, -np.inf)
    best = np.argsort(-likeness, axis=1, kind="stable")[:, : min(similar, len(features) - 1)]
    return sorted({(min(i, int(j)), max(i, int(j))) for i, row in enumerate(best) for j in row})


def vlad(features: list[Features], seed: int) -> NDArray[np.float32]:
    """(photos, WORDS × 128) float32, unit length: sums of differences to the nearest word (Jégou et al. 2010), intra-normalised."""
    sample = np.vstack([f.descriptors[:: max(1, len(f.descriptors) // SAMPLED)] for f in features]).astype(np.float32)
    cv2.setRNGSeed(seed)
    until = (cv2.TERM_CRITERIA_MAX_ITER, 15, 0.0)
    labels = np.zeros((len(sample), 1), np.int32)
    _, _, words = cv2.kmeans(sample, min(WORDS, len(sample)), labels, until, 1, cv2.KMEANS_PP_CENTERS)
    return np.stack([_signature(f.descriptors.astype(np.float32), np.asarray(words, np.float32)) for f in features])


def _signature(descriptors: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.float32]:
    signature = np.zeros_like(words)
    if len(descriptors):
        nearest = np.argmax(descriptors @ words.T - 0.5 * (words**2).sum(axis=1), axis=1)
        np.add.at(signature, nearest, descriptors - words[nearest])
    signature /= np.maximum(np.linalg.norm(signature, axis=1, keepdims=True), 1e-6)
    flat = signature.ravel()
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-6), np.float32)
