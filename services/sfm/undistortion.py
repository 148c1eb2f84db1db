"""Straight images: what later steps work on, so that none of them knows about lenses.

A photo whose lens moves no pixel is handed on as the file that it is. Others are reduced by area where they are too large, and resampled
once, through maps that photos of one camera share.
"""

import copy
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from services.sfm.colmap import pycolmap
from services.sfm.photos import Photo
from services.sfm.straight_camera import Warp, project, warp_of
from shared.thread_count import thread_count

JPEG_QUALITY = 97


@dataclass(frozen=True)
class Straight:
    """The undistorted model and where its files lie, relative to the outputs."""

    reconstruction: pycolmap.Reconstruction
    files: dict[int, str]  # image id -> images/<file>
    masks: dict[int, str]  # image id -> masks/<stem>.png


def undistort(reconstruction: pycolmap.Reconstruction, photos: list[Photo], outputs: Path, max_size: int) -> Straight:
    """Writes `images/`, `masks/` and `sparse/` below `outputs`. The model's image ids are indices of `photos` plus one."""
    warps = {camera_id: warp_of(camera, max_size) for camera_id, camera in reconstruction.cameras.items()}
    for folder in ("images", "masks", "sparse"):
        (outputs / folder).mkdir(parents=True, exist_ok=True)
    model = straightened(reconstruction, warps)
    model.write(outputs / "sparse")
    ids = sorted(reconstruction.reg_image_ids())

    def write(image_id: int) -> None:
        _write(photos[image_id - 1], warps[reconstruction.image(image_id).camera_id], outputs)

    with ThreadPoolExecutor(min(thread_count(), 8)) as pool:
        list(pool.map(write, ids))
    files = {i: f"images/{photos[i - 1].file}" for i in ids}
    return Straight(model, files, {i: f"masks/{photos[i - 1].path.stem}.png" for i in ids if photos[i - 1].mask})


def straightened(reconstruction: pycolmap.Reconstruction, warps: dict[int, Warp]) -> pycolmap.Reconstruction:
    """The same model seen by straight cameras: observations move, points and poses stay."""
    result = copy.deepcopy(reconstruction)
    for camera_id, warp in warps.items():
        camera = result.camera(camera_id)
        camera.model, camera.width, camera.height = warp.camera.model, warp.camera.width, warp.camera.height
        camera.params = list(warp.camera.params)
    for image_id in result.images:
        image, before = result.image(image_id), reconstruction.camera(reconstruction.image(image_id).camera_id)
        points = image.points2D
        if len(points):
            rays = before.cam_from_img(np.array([point.xy for point in points]))
            for point, xy in zip(points, project(warps[image.camera_id].camera, rays), strict=True):
                point.xy = xy
    result.update_point_3d_errors()
    return result


def _write(photo: Photo, warp: Warp, outputs: Path) -> None:
    target = outputs / "images" / photo.file
    if warp.leaves(photo.width, photo.height):
        shutil.copyfile(photo.path, target)
    else:
        image = cv2.imread(str(photo.path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        assert image is not None, f"ingest wrote an image that cannot be read: {photo.file}"
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        is_png = photo.path.suffix == ".png"
        cv2.imwrite(str(target), warp.apply(image), [cv2.IMWRITE_PNG_COMPRESSION, 3] if is_png else options)
    if photo.mask:
        mask = warp.apply(np.asarray(cv2.imread(str(photo.mask), cv2.IMREAD_GRAYSCALE)), cv2.INTER_LINEAR)
        cv2.imwrite(str(outputs / "masks" / f"{photo.path.stem}.png"), np.where(mask >= 128, 255, 0).astype(np.uint8))
