"""Straight images: what later steps work on, so that none of them knows about lenses."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from services.sfm.colmap import pycolmap, thread_count
from services.sfm.photos import Photo

JPEG_QUALITY = 98


@dataclass(frozen=True)
class Straight:
    """The undistorted model and where its files lie, relative to the outputs."""

    reconstruction: pycolmap.Reconstruction
    files: dict[int, str]  # image id -> images/<file>
    masks: dict[int, str]  # image id -> masks/<stem>.png


def undistort(reconstruction: pycolmap.Reconstruction, photos: list[Photo], outputs: Path, scratch: Path, max_size: int) -> Straight:
    """Writes `images/`, `masks/` and `sparse/` below `outputs`. The model's image ids are indices of `photos` plus one."""
    options = pycolmap.UndistortCameraOptions(max_image_size=max_size)
    distorted, straight = scratch / "distorted", scratch / "straight"
    for folder in (distorted, straight):
        folder.mkdir(parents=True, exist_ok=True)
    reconstruction.write(distorted)
    pycolmap.undistort_images(
        straight,
        distorted,
        photos[0].path.parent,
        undistort_options=options,
        jpeg_quality=JPEG_QUALITY,
        num_threads=thread_count(),
    )
    (straight / "images").rename(outputs / "images")
    (straight / "sparse").rename(outputs / "sparse")
    result = pycolmap.Reconstruction(outputs / "sparse")
    files = {i: f"images/{result.image(i).name}" for i in result.reg_image_ids()}
    return Straight(result, files, _warp_masks(reconstruction, photos, outputs, options))


def _warp_masks(
    reconstruction: pycolmap.Reconstruction, photos: list[Photo], outputs: Path, options: pycolmap.UndistortCameraOptions
) -> dict[int, str]:
    written = {}
    for image_id in reconstruction.reg_image_ids():
        photo = photos[image_id - 1]
        if photo.mask is None:
            continue
        mask = cv2.imread(str(photo.mask), cv2.IMREAD_GRAYSCALE)
        camera = reconstruction.camera(reconstruction.image(image_id).camera_id)
        bitmap, _ = pycolmap.undistort_image(options, pycolmap.Bitmap.from_array(np.asarray(mask, np.uint8)), camera)
        warped = np.where(bitmap.to_array().reshape(bitmap.height, bitmap.width) >= 128, 255, 0).astype(np.uint8)
        (outputs / "masks").mkdir(exist_ok=True)
        written[image_id] = f"masks/{photo.path.stem}.png"
        cv2.imwrite(str(outputs / written[image_id]), warped)
    return written
