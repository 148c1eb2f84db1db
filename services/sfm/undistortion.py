"""Straight images: what later steps work on, so that none of them knows about lenses.

COLMAP decides what the straight camera is; the pixels are resampled here, through maps that photos of one camera share. COLMAP's own warp
takes one bilinear sample per pixel down to half the size, which aliases, is ten times slower below it, and may leave the last column black.
"""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from services.sfm.colmap import pycolmap, thread_count
from services.sfm.photos import Photo

JPEG_QUALITY = 97


@dataclass(frozen=True)
class Straight:
    """The undistorted model and where its files lie, relative to the outputs."""

    reconstruction: pycolmap.Reconstruction
    files: dict[int, str]  # image id -> images/<file>
    masks: dict[int, str]  # image id -> masks/<stem>.png


@dataclass(frozen=True)
class Warp:
    """How one camera's images become straight: reduced to `reduced_size` (width, height) by area, then resampled through the maps."""

    camera: pycolmap.Camera  # the straight one
    reduced_size: tuple[int, int]
    map_x: NDArray[np.float32]  # (h, w) of the straight image, in array indices of the reduced one
    map_y: NDArray[np.float32]

    def apply(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """A photo or a mask, (h, w[, 3])."""
        small = cv2.resize(image, self.reduced_size, interpolation=cv2.INTER_AREA) if self._reduces(image) else image
        return np.asarray(cv2.remap(small, self.map_x, self.map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.uint8)

    def _reduces(self, image: NDArray[Any]) -> bool:
        return (image.shape[1], image.shape[0]) != self.reduced_size


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


def warp_of(camera: pycolmap.Camera, max_size: int) -> Warp:
    """The straight camera, at most `max_size` pixels along its longest side, without blank pixels, and the way to it."""
    straight = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(max_image_size=max_size), camera)
    scale = min(1.0, straight.mean_focal_length() / camera.mean_focal_length())
    reduced = pycolmap.Camera(camera.todict())
    reduced.rescale(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))
    x, y = np.meshgrid(np.arange(straight.width) + 0.5, np.arange(straight.height) + 0.5)
    rays = straight.cam_from_img(np.stack([x.ravel(), y.ravel()], axis=1))
    source = _project(camera, rays) * (reduced.width / camera.width, reduced.height / camera.height) - 0.5
    maps = source.astype(np.float32).reshape(straight.height, straight.width, 2)
    return Warp(straight, (reduced.width, reduced.height), maps[..., 0].copy(), maps[..., 1].copy())


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
            for point, xy in zip(points, _project(warps[image.camera_id].camera, rays), strict=True):
                point.xy = xy
    result.update_point_3d_errors()
    return result


def _project(camera: pycolmap.Camera, rays: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) pixels of (n, 2) points at depth one; what a lens cannot see is far outside."""
    pixels = camera.img_from_cam(np.column_stack([rays, np.ones(len(rays))]))
    return np.nan_to_num(np.asarray(pixels, np.float64), nan=-1e6)


def _write(photo: Photo, warp: Warp, outputs: Path) -> None:
    image = cv2.imread(str(photo.path), cv2.IMREAD_COLOR)
    assert image is not None, f"ingest wrote an image that cannot be read: {photo.file}"
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    is_png = photo.path.suffix == ".png"
    cv2.imwrite(str(outputs / "images" / photo.file), warp.apply(image), [cv2.IMWRITE_PNG_COMPRESSION, 3] if is_png else options)
    if photo.mask:
        mask = warp.apply(np.asarray(cv2.imread(str(photo.mask), cv2.IMREAD_GRAYSCALE)))
        cv2.imwrite(str(outputs / "masks" / f"{photo.path.stem}.png"), np.where(mask >= 128, 255, 0).astype(np.uint8))
