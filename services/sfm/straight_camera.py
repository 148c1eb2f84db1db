"""The pinhole camera that stands for a photo's lens, and the maps from its pixels to the photo's.

It has the lens's focal length and lies on the photo's own pixel grid, so pixels that the lens hardly moves stay where they are and stay
sharp. COLMAP's `undistort_camera` centres the principal point anew instead (1280×960 becomes 1279×959), which resamples every pixel half
way between its neighbours: a tenth of the photo's fine detail.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from services.sfm.colmap import pycolmap

UNMOVED_PX = 0.1  # less than this everywhere is left as it is: resampling blurs more than it straightens
BORDER_PX = 3.0  # so much of a border may repeat the photo's last pixels, or be lost, before the size changes by whole pixels
MAX_GROWTH = 2.0  # of each side, for lenses whose border looks almost sideways

Floats = NDArray[np.float64]
Map = NDArray[np.float32]


@dataclass(frozen=True)
class Warp:
    """How one camera's images become straight: reduced to `reduced_size` (width, height) by area, then resampled through the maps."""

    camera: pycolmap.Camera  # the straight one, PINHOLE
    reduced_size: tuple[int, int]
    maps: tuple[Map, Map] | None  # x and y, each (h, w) of the straight image, in array indices of the reduced one; None: as it is

    def leaves(self, width: int, height: int) -> bool:
        """Whether an image of this size is straight already, pixel by pixel."""
        return self.maps is None and (width, height) == self.reduced_size

    def apply(self, image: NDArray[Any], interpolation: int = cv2.INTER_LANCZOS4) -> NDArray[np.uint8]:
        """A photo or a mask, (h, w[, 3]) uint8. Beyond its border the last pixels repeat."""
        reduces = (image.shape[1], image.shape[0]) != self.reduced_size
        small = cv2.resize(image, self.reduced_size, interpolation=cv2.INTER_AREA) if reduces else image
        if self.maps is None:
            return np.asarray(small, np.uint8)
        return np.asarray(cv2.remap(small, *self.maps, interpolation, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def warp_of(camera: pycolmap.Camera, max_size: int) -> Warp:
    """The straight camera, at most `max_size` pixels along its longest side, and the way to it."""
    reduced = _scaled(camera, min(1.0, max_size / max(camera.width, camera.height)))
    straight = straight_camera(reduced)
    while max(straight.width, straight.height) > max_size:
        reduced = _scaled(camera, reduced.width / camera.width * (max_size - 0.5) / max(straight.width, straight.height))
        straight = straight_camera(reduced)
    return Warp(straight, (reduced.width, reduced.height), _maps(reduced, straight))


def straight_camera(camera: pycolmap.Camera) -> pycolmap.Camera:
    """Same focal lengths, same pixel grid; sides move by whole pixels where the lens would leave blank, or lose, more than `BORDER_PX`."""
    left, top, right, bottom = _margins(camera)
    width, height = camera.width + left + right, camera.height + top + bottom
    if width < camera.width // 2 or height < camera.height // 2:  # no lens: found on too little; a blank border harms less
        left, top, width, height = 0, 0, camera.width, camera.height
    fx, fy = (camera.focal_length_x, camera.focal_length_y) if len(camera.focal_length_idxs()) == 2 else (camera.focal_length,) * 2
    params = [fx, fy, camera.principal_point_x + left, camera.principal_point_y + top]
    return pycolmap.Camera(model="PINHOLE", width=width, height=height, params=params)


def project(camera: pycolmap.Camera, rays: Floats) -> Floats:
    """(n, 2) pixels of (n, 2) points at depth one; what a lens cannot see is far outside."""
    pixels = camera.img_from_cam(np.column_stack([rays, np.ones(len(rays))]))
    return np.nan_to_num(np.asarray(pixels, np.float64), nan=-1e6)


def _margins(camera: pycolmap.Camera) -> tuple[int, int, int, int]:
    """Whole pixels to add on the left, top, right and bottom (negative: take off) for the largest image without blank pixels."""
    w, h = camera.width, camera.height
    y, x = np.linspace(0, h, 65), np.linspace(0, w, 65)
    left = -_straightened(camera, np.zeros(65), y)[:, 0].max()
    right = _straightened(camera, np.full(65, w), y)[:, 0].min() - w
    top = -_straightened(camera, x, np.zeros(65))[:, 1].max()
    bottom = _straightened(camera, x, np.full(65, h))[:, 1].min() - h
    horizontal, vertical = (MAX_GROWTH - 1) * w / 2, (MAX_GROWTH - 1) * h / 2
    return _whole(left, horizontal), _whole(top, vertical), _whole(right, horizontal), _whole(bottom, vertical)


def _whole(margin: float, most: float) -> int:
    return 0 if abs(margin) <= BORDER_PX else int(np.floor(min(margin, most)))


def _straightened(camera: pycolmap.Camera, x: Floats, y: Floats) -> Floats:
    """Where a pinhole with the same focal length sees the photo's pixels (n, 2); far outside for what looks sideways."""
    rays = np.asarray(camera.cam_from_img(np.column_stack([x, y]).astype(np.float64)), np.float64)
    K = camera.calibration_matrix()
    return np.asarray(np.nan_to_num(rays, nan=1e3) * K[[0, 1], [0, 1]] + K[:2, 2])


def _maps(reduced: pycolmap.Camera, straight: pycolmap.Camera) -> tuple[Map, Map] | None:
    x, y = np.meshgrid(np.arange(straight.width) + 0.5, np.arange(straight.height) + 0.5)
    pixels = np.stack([x.ravel(), y.ravel()], axis=1)
    source = project(reduced, straight.cam_from_img(pixels))
    same_size = (straight.width, straight.height) == (reduced.width, reduced.height)
    if same_size and np.abs(source - pixels).max() < UNMOVED_PX:
        return None
    maps = (source - 0.5).astype(np.float32).reshape(straight.height, straight.width, 2)
    return maps[..., 0].copy(), maps[..., 1].copy()


def _scaled(camera: pycolmap.Camera, scale: float) -> pycolmap.Camera:
    scaled = pycolmap.Camera(camera.todict())
    scaled.rescale(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))
    return scaled
