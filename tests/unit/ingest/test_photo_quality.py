"""Figures that tell a blurred or burnt photo from a calm, pale or dark one."""

import cv2
import numpy as np
import pytest

from services.ingest.capture_faults import BLURRED_CRISPNESS, BLURRED_SHARPNESS, CLIPPED_SHARE, DARK_STOPS
from services.ingest.photo_quality import measure


def texture(seed: int = 0, contrast: float = 0.25) -> np.ndarray:
    """h×w×3 linear light in 0…1: patches with edges over finer ones, as surfaces have."""
    random, height, width = np.random.default_rng(seed), 480, 640
    light = np.full((height, width), 0.3)
    for cells, share in ((8, 0.5), (32, 0.3), (96, 0.2)):
        patches = random.uniform(-1, 1, (cells * 3 // 4, cells))
        light += contrast * share * cv2.resize(patches, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.repeat(light[..., None], 3, axis=2)


def photo(light: np.ndarray, stops: float = 0.0) -> np.ndarray:
    """8-bit sRGB of linear light."""
    return np.round(255 * np.clip(light * 2.0**stops, 0, 1) ** (1 / 2.2)).astype(np.uint8)


def shaken(image: np.ndarray, length_px: int) -> np.ndarray:
    return cv2.filter2D(image, -1, np.full((1, length_px), 1 / length_px))


def test_blur_in_one_direction_is_blur() -> None:
    """A shaken camera leaves detail across its motion; the figure is that of the worst direction."""
    image = photo(texture())
    sharp, moved = measure(image), measure(shaken(image, 15))
    assert moved.sharpness < 0.1 * sharp.sharpness


def test_faint_texture_in_focus_is_told_from_blur() -> None:
    """A third of the contrast has little sharpness, but it is crisp; the same out of focus is not."""
    faint = photo(texture(contrast=0.08))
    assert measure(faint).crispness > BLURRED_CRISPNESS
    blurred = measure(cv2.GaussianBlur(faint, (0, 0), 1.2))
    assert blurred.sharpness < BLURRED_SHARPNESS
    assert blurred.crispness < BLURRED_CRISPNESS


def test_a_white_backdrop_is_not_overexposed() -> None:
    """White to the border is meant to be white; the object before it counts."""
    light = np.ones((480, 640, 3))
    light[120:360, 200:440] = texture()[120:360, 200:440]
    assert measure(photo(light)).overexposed < 0.01
    assert measure(photo(light, 3.0)).overexposed > CLIPPED_SHARE


def test_a_black_backdrop_is_not_underexposed() -> None:
    """The same with black velvet, which is not quite black."""
    light = np.full((480, 640, 3), 0.0005)
    light[120:360, 200:440] = texture()[120:360, 200:440]
    assert measure(photo(light)).underexposed < 0.01
    assert measure(photo(light)).brightness > DARK_STOPS


@pytest.mark.parametrize("stops", [-2.0, -1.0, 1.0])
def test_brightness_counts_stops(stops: float) -> None:
    """One stop more light is one more, until it clips."""
    light = texture(contrast=0.1)
    assert measure(photo(light, stops)).brightness - measure(photo(light)).brightness == pytest.approx(stops, abs=0.05)


def test_all_white_and_all_black_photos_are_clipped() -> None:
    """A photo that is all backdrop is no photo of an object."""
    white, black = np.full((480, 640, 3), 255, np.uint8), np.zeros((480, 640, 3), np.uint8)
    assert measure(white).overexposed == 1.0
    assert measure(black).underexposed == 1.0
