"""Features lie where they should, in numbers that can be matched."""

import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from services.sfm.features import extract_features, root_sift, select
from services.sfm.photos import Photo

CENTRES = np.array([(100.25, 80.5), (200.0, 150.75), (321.6, 90.1), (80.5, 230.3), (260.4, 250.2)])  # first pixel's centre at (0.5, 0.5)


def photo_of_blobs(folder: Path, scale: int = 1, mask: Path | None = None) -> Photo:
    """Gaussian blobs at CENTRES times `scale`."""
    height, width = 320 * scale, 400 * scale
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    picture = np.full((height, width), 40.0)
    for cx, cy in CENTRES * scale:
        picture += 180 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * (6.0 * scale) ** 2))
    path = folder / "0000.png"
    cv2.imwrite(str(path), np.round(picture).astype(np.uint8))
    return Photo("blobs", path, width, height, width, height, mask=mask)


@pytest.mark.parametrize("scale", [1, 3])
def test_a_feature_lies_at_the_centre_of_its_blob(tmp_path: Path, scale: int) -> None:
    """Within 0.1 px of the image that was looked at, with the first pixel's centre at (0.5, 0.5), also when the photo is reduced first."""
    found = extract_features(photo_of_blobs(tmp_path, scale), 400, 100, use_mask=False).keypoints[:, :2]
    for centre in CENTRES * scale:
        assert np.linalg.norm(found - centre, axis=1).min() < 0.1 * scale


def test_nothing_is_found_outside_the_mask(tmp_path: Path) -> None:
    """Except close to its outline, where features of the object's silhouette lie."""
    mask = np.zeros((320, 400), np.uint8)
    cv2.circle(mask, (200, 151), 30, 255, cv2.FILLED)
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    photo = photo_of_blobs(tmp_path, mask=tmp_path / "mask.png")
    inside = extract_features(photo, 400, 100, use_mask=True).keypoints
    assert 0 < len(inside) < len(extract_features(photo, 400, 100, use_mask=False).keypoints)
    assert (np.linalg.norm(inside[:, :2] - CENTRES[1], axis=1) < 40).all()


def test_a_working_image_is_upright_whatever_its_exif_says(tmp_path: Path) -> None:
    """ingest turned it by what Pillow reads. OpenCV takes a type that is none for a turn, and would look at another picture."""
    photo = photo_of_blobs(tmp_path)
    plain, turned = tmp_path / "plain.jpg", tmp_path / "turned.jpg"
    cv2.imwrite(str(plain), cv2.imread(str(photo.path)))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x0112, 99, 1, 6) + bytes(4)
    jpeg = plain.read_bytes()
    turned.write_bytes(jpeg[:2] + struct.pack(">BBH", 0xFF, 0xE1, len(exif) + 2) + exif + jpeg[2:])
    assert cv2.imread(str(turned)).shape[:2] == (400, 320)
    found = [extract_features(replace(photo, path=path), 400, 100, use_mask=False).keypoints for path in (plain, turned)]
    np.testing.assert_array_equal(*found)


def test_a_photo_without_texture_has_no_features(tmp_path: Path) -> None:
    """Nothing to see is no error."""
    cv2.imwrite(str(tmp_path / "0000.png"), np.full((60, 80), 128, np.uint8))
    found = extract_features(Photo("grey", tmp_path / "0000.png", 80, 60, 80, 60), 400, 100, use_mask=False)
    assert (found.keypoints.shape, found.descriptors.shape, found.capped) == ((0, 4), (0, 128), False)


def test_half_the_strongest_and_half_the_largest_are_kept() -> None:
    """Whatever the order in which they were found."""
    keypoints = [cv2.KeyPoint(float(i), 0.0, size=float(100 - i), angle=0.0, response=float(i)) for i in range(100)]
    kept = {int(k.pt[0]) for k in select(keypoints, 10)}
    assert kept == {99, 98, 97, 96, 95, 0, 1, 2, 3, 4}
    assert {int(k.pt[0]) for k in select(keypoints[::-1], 10)} == kept


def test_descriptors_are_root_sift() -> None:
    """512 times the square root of the L1-normalised descriptor: what COLMAP's matcher takes."""
    descriptors = np.zeros((2, 128), np.float32)
    descriptors[0, :4] = 25.0
    descriptors[1] = 3.0
    found = root_sift(descriptors)
    assert found.dtype == np.uint8
    assert (found[0, :4] == 255).all() and (found[0, 4:] == 0).all()
    assert (found[1] == 45).all()  # 512 / sqrt(128)
