"""Segmentation without a model: what differs from the photo's border is the object.

For objects in front of a plain backdrop (turntables, light tents, tables). The border's colours are modelled in Lab by a few
clusters; Mahalanobis distance to the nearest one seeds GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from services.segmentation.mask import Image, Mask, ObjectMask

Floats = NDArray[np.float32]

_BORDER_SHARE = 0.04  # of the shorter side, at least 4 px
_CLUSTERS = 3
_NOISE = 9.0  # Lab variance added to each cluster: sensor noise and JPEG
_BACKDROP, _OBJECT = 3.0, 6.0  # Mahalanobis distances: surely backdrop below, probably object above
_SPECK_SHARE = 0.002  # components smaller than this share of the photo are no object


@dataclass(frozen=True)
class BackdropSegmenter:
    """Works at `working_size` pixels along the longest side."""

    working_size: int
    iterations: int

    def segment(self, photo: Image) -> ObjectMask:
        """The same photo gives the same mask."""
        scale = min(1.0, self.working_size / max(photo.shape[:2]))
        small = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8) if scale < 1 else photo
        distance = _distance_to_backdrop(small)
        mask = _without_specks(_grabcut(small, distance, self.iterations))
        confidence = _confidence(mask, distance)
        height, width = photo.shape[:2]
        full = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
        return ObjectMask(np.where(full >= 128, 255, 0).astype(np.uint8), confidence)


def _ring(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    depth = max(4, round(_BORDER_SHARE * min(shape[:2])))
    ring = np.ones(shape[:2], bool)
    ring[depth:-depth, depth:-depth] = False
    return ring


def _distance_to_backdrop(photo: Image) -> Floats:
    """h×w Mahalanobis distance in Lab of each pixel to the nearest cluster of the border's colours."""
    lab = cv2.cvtColor(photo.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    border = lab[_ring(photo.shape)]
    cv2.setRNGSeed(0)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    _, labels, centres = cv2.kmeans(border, _CLUSTERS, None, criteria, 2, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    nearest = np.full(lab.shape[:2], np.inf, np.float32)
    for index, centre in enumerate(centres):
        members = border[labels.ravel() == index]
        if len(members) < 0.05 * len(border):
            continue  # a corner of the object that touches the border is no backdrop
        precision = np.linalg.inv(np.cov(members.T) + _NOISE * np.eye(3)).astype(np.float32)
        offset = lab - centre
        nearest = np.minimum(nearest, np.sqrt(np.einsum("hwi,ij,hwj->hw", offset, precision, offset)))
    return nearest


def _grabcut(photo: Image, distance: Floats, iterations: int) -> Mask:
    seeds = np.where(distance > _OBJECT, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    seeds[_ring(photo.shape) & (distance < _BACKDROP)] = cv2.GC_BGD
    if not (seeds == cv2.GC_PR_FGD).any() or not (seeds != cv2.GC_PR_FGD).any():
        return np.where(seeds == cv2.GC_PR_FGD, 255, 0).astype(np.uint8)
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), seeds, None, *models, iterations, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    return np.where((seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD), 255, 0).astype(np.uint8)


def _without_specks(mask: Mask) -> Mask:
    opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(opened)
    keep = [i for i in range(1, count) if statistics[i, cv2.CC_STAT_AREA] >= _SPECK_SHARE * mask.size]
    kept = np.where(np.isin(labels, keep), 255, 0).astype(np.uint8)
    holes, _ = cv2.findContours(kept, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(kept)
    cv2.drawContours(filled, holes, -1, 255, cv2.FILLED)
    return np.where(filled > 0, np.where(kept > 0, 255, _hole_fill(kept, filled)), 0).astype(np.uint8)


def _hole_fill(kept: Mask, filled: Mask) -> Mask:
    """Small holes belong to the object; large ones are seen-through (a handle, a ring)."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(((filled > 0) & (kept == 0)).astype(np.uint8))
    small = [i for i in range(1, count) if statistics[i, cv2.CC_STAT_AREA] < _SPECK_SHARE * kept.size]
    return np.where(np.isin(labels, small), 255, 0).astype(np.uint8)


def _confidence(mask: Mask, distance: Floats) -> float:
    """High where the border is backdrop, what is outside looks like it, and what is inside does not."""
    inside, ring = mask > 0, _ring(mask.shape)
    if not inside.any() or inside.all():
        return 0.0
    border_is_clear = 1.0 - float(inside[ring].mean())
    outside_is_backdrop = float((distance[~inside] < _OBJECT).mean())
    inside_differs = float((distance[inside] > _BACKDROP).mean())
    return border_is_clear * outside_is_backdrop * inside_differs
