"""Segmentation of photos from one place: what differs from the background is the object, and whatever turns with it.

The background of a pixel is what most photos agree on; a mere median would be the object where it stands before a pixel in most of
them. Photos are told from the background by colour and, so that shadows stay background, by texture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from services.segmentation.mask import Image, Mask, ObjectMask

Floats = NDArray[np.float32]

MOST_PHOTOS = 24  # of a group that the background is taken from: the time grows with their square
_LEAST_SEEN, _LEAST_SEEN_SHARE = 3, 0.12  # photos that must agree on a pixel's background; with fewer the object always stands before it
_ALIKE = 12.0  # grey levels
_NOISE = 4.0  # grey levels: least deviation of a background pixel
_DIFFERS = 3.0  # deviations
_EVIDENCE_PX = 1.5  # a pixel's neighbours have a say in whether it differs
_DARK = 20.0  # grey levels: below, exposure cannot be told
_TEXTURE_WINDOW_PX = 9
_SAME_TEXTURE = 0.8  # correlation in that window: the background in a shadow
_LEAST_TEXTURE = 4.0  # grey levels
_SPECK_SHARE = 0.002  # components and holes smaller than this share of the photo are neither object nor background


@dataclass(frozen=True)
class Background:
    """h×w×3 colours in grey levels; `known`: pixels where it was seen; `deviation`: h×w, how much photos vary there."""

    colours: Floats
    known: NDArray[np.bool_]
    deviation: Floats

    @staticmethod
    def of(photos: Sequence[Image]) -> "Background":
        """From at most `MOST_PHOTOS` photos of one size and place, already reduced; the same photos give the same background."""
        stack = np.stack(photos)
        agreeing = _agreeing(stack)
        best = agreeing.argmax(0)[None]
        typical = np.take_along_axis(stack, best[..., None], axis=0)[0]
        seen = np.stack([_evidence(photo, typical) < _ALIKE for photo in stack])
        np.put_along_axis(seen, best, True, axis=0)
        masked = np.where(seen[..., None], stack.astype(np.float32), np.nan)
        colours = np.nanmedian(masked, axis=0)
        deviation = 1.4826 * np.nanmedian(np.abs(masked - colours).max(-1), axis=0)
        known = agreeing.max(0) >= max(_LEAST_SEEN, _LEAST_SEEN_SHARE * len(stack)) - 1
        return Background(colours.astype(np.float32), known, np.maximum(deviation, _NOISE).astype(np.float32))


def _agreeing(stack: Image) -> NDArray[np.int16]:
    """n×h×w: how many other photos look as this one does, about this pixel. Background repeats itself, an object that turns does not."""
    count = np.zeros(stack.shape[:3], np.int16)
    for i in range(len(stack)):
        for j in range(i):
            alike = _evidence(stack[i], stack[j]) < _ALIKE
            count[i] += alike
            count[j] += alike
    return count


def _evidence(photo: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Difference in grey levels of the channel that differs most, averaged over the pixel's neighbours."""
    red, green, blue = cv2.split(cv2.absdiff(photo, other))
    return np.asarray(cv2.GaussianBlur(cv2.max(cv2.max(red, green), blue), (0, 0), _EVIDENCE_PX))


@dataclass(frozen=True)
class TurntableSegmenter:
    """Tells objects from a background that is the same in all photos. Works at the background's size."""

    background: Background

    def segment(self, photo: Image) -> ObjectMask:
        """The same photo gives the same mask."""
        height, width = self.background.colours.shape[:2]
        small = np.asarray(cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA), np.float32)
        mask = _object(self.background, small)
        full = cv2.resize(mask, photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return ObjectMask(np.where(full >= 128, 255, 0).astype(np.uint8), _confidence(self.background, small, mask))


def _object(background: Background, photo: Floats) -> Mask:
    differs = np.where(_is_background(background, photo), 0, 255).astype(np.uint8)
    joined = np.asarray(cv2.morphologyEx(cv2.medianBlur(differs, 5), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)), np.uint8)
    least_px = _SPECK_SHARE * joined.size
    solid = joined | _small_parts(255 - joined, least_px)  # places where the object happens to look like what is behind it
    return np.asarray(solid & ~_small_parts(solid, least_px), np.uint8)


def _is_background(background: Background, photo: Floats) -> NDArray[np.bool_]:
    behind = background.colours * _gain(background, photo)
    return background.known & (
        (_evidence(photo, behind) < _DIFFERS * background.deviation) | _same_texture(behind.mean(-1), photo.mean(-1))
    )


def _gain(background: Background, photo: Floats) -> float:
    """The photo's exposure beside the background's."""
    bright = background.known & (background.colours.min(-1) > _DARK)
    if not bright.any():
        return 1.0
    return float(np.median(photo[bright].mean(-1) / background.colours[bright].mean(-1)))


def _same_texture(behind: Floats, photo: Floats) -> NDArray[np.bool_]:
    """Where both go up and down together, however bright: windowed normalised cross-correlation."""

    def mean(values: Floats) -> Floats:
        return np.asarray(cv2.blur(values, (_TEXTURE_WINDOW_PX, _TEXTURE_WINDOW_PX)), np.float32)

    a, b = behind - mean(behind), photo - mean(photo)
    power_a, power_b = mean(a * a), mean(b * b)
    correlation = mean(a * b) / np.sqrt(np.maximum(power_a * power_b, 1e-6))
    return np.asarray((correlation > _SAME_TEXTURE) & (np.minimum(power_a, power_b) > _LEAST_TEXTURE**2))


def _small_parts(mask: Mask, least_px: float) -> Mask:
    """255 where a connected part of the mask has fewer pixels than `least_px`."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask)
    small = statistics[:, cv2.CC_STAT_AREA] < least_px
    small[0] = False
    return np.where(small[labels], 255, 0).astype(np.uint8)


def _confidence(background: Background, photo: Floats, mask: Mask) -> float:
    """High where what is outside looks like the background and what is inside does not."""
    inside = mask > 0
    if not inside.any() or inside.all():
        return 0.0
    same = _is_background(background, photo)
    return float(same[~inside].mean() * (~same[inside]).mean())
