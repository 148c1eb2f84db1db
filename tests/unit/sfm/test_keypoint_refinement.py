"""Patches are found again to a fraction of a pixel, and what is not the same patch is not taken for it."""

import cv2
import numpy as np
import pytest

from services.sfm.alignment_kernels import STORED, align_patches, cut_patches

TURN = np.array([[0.95, -0.22], [0.18, 0.85]])  # reference pixels → pixels of the other image

MOVED = np.array([0.37, -0.21])


def texture(seed: int = 0) -> np.ndarray:
    grey = np.random.default_rng(seed).normal(128, 160, (200, 240))
    return cv2.GaussianBlur(grey, (0, 0), 1.8).astype(np.float32)


def seen_through(image: np.ndarray, warp: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The image as another camera sees it: p ↦ warp (p − at) + at + MOVED, darker and with less contrast."""
    shift = at + MOVED - warp @ at
    warped = cv2.warpAffine(
        image, np.column_stack([warp, shift]), image.shape[::-1], flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT
    )
    return (0.7 * warped + 12).astype(np.float32)


def aligned(reference: np.ndarray, other: np.ndarray, at: np.ndarray, start: np.ndarray, warp: np.ndarray) -> tuple[np.ndarray, bool]:
    patches, valid = np.zeros((1, STORED, STORED), np.float32), np.zeros(1, np.bool_)
    cut_patches(reference, at[None], patches, valid)
    assert valid[0]
    places, warps, found = start[None].copy(), warp[None].copy(), np.zeros(1, np.bool_)
    align_patches(other, patches, np.zeros(1, np.int64), places, warps, found)
    return places[0], bool(found[0])


@pytest.mark.parametrize("seed", range(5))
def test_a_patch_is_found_again_to_a_fiftieth_of_a_pixel(seed: int) -> None:
    """From a pixel off, through a map that is 10 % wrong, under another exposure."""
    at, reference = np.array([120.3, 96.7]), texture(seed)
    other = seen_through(reference, TURN, at)
    place, found = aligned(reference, other, at, at + np.array([1.0, -0.6]), TURN + np.array([[0.06, 0.04], [-0.05, 0.07]]))
    assert found
    np.testing.assert_allclose(place, at + MOVED, atol=0.02)


def test_what_looks_different_is_not_found() -> None:
    """Other texture, no texture, too far away, outside the image."""
    at, reference = np.array([120.3, 96.7]), texture()
    assert not aligned(reference, texture(9), at, at, np.eye(2))[1]
    assert not aligned(reference, np.full_like(reference, 90.0), at, at, np.eye(2))[1]
    assert not aligned(np.full_like(reference, 90.0), reference, at, at, np.eye(2))[1]
    assert not aligned(reference, reference, at, at + 5.0, np.eye(2))[1]
    assert not aligned(reference, reference, at, np.array([2.0, 96.0]), np.eye(2))[1]
    assert not aligned(reference, reference, at, np.array([np.nan, 96.0]), np.eye(2))[1]


def test_a_single_edge_cannot_say_where_it_is() -> None:
    """The aperture problem: along an edge every place looks the same."""
    edge = cv2.GaussianBlur(np.where(np.arange(240)[None] < 120, 60.0, 180.0).repeat(200, axis=0).astype(np.float32), (0, 0), 1.0)
    at = np.array([120.0, 96.0])
    assert not aligned(edge, edge, at, at, np.eye(2))[1]


def test_patches_at_the_border_are_not_cut() -> None:
    """They would carry pixels that nobody photographed."""
    patches, valid = np.zeros((3, STORED, STORED), np.float32), np.zeros(3, np.bool_)
    cut_patches(texture(), np.array([[3.0, 100.0], [120.0, 100.0], [120.0, 195.0]]), patches, valid)
    assert list(valid) == [False, True, False]
