"""What the earlier stages say about the capture: cameras, photos, dense cloud. World frame of sfm throughout."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open3d as o3d
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Camera:
    """One registered photo: x_camera = R x_world + t, OpenCV axes; pixel centres at +0.5."""

    name: str
    image: Path
    mask: Path | None
    R: Floats
    t: Floats
    K: Floats
    width: int
    height: int

    @property
    def centre(self) -> Floats:
        """Its position in the world."""
        return np.asarray(-self.R.T @ self.t)

    @property
    def forward(self) -> Floats:
        """Unit vector that it looks along."""
        return np.asarray(self.R[2])

    @property
    def up(self) -> Floats:
        """Unit vector from the photo's bottom to its top."""
        return np.asarray(-self.R[1])

    def scaled_to(self, longest_px: int) -> "Camera":
        """The same camera for a photo that was shrunk to at most `longest_px`; itself when that is no shrinking."""
        factor = longest_px / max(self.width, self.height)
        if factor >= 1:
            return self
        width, height = max(1, round(self.width * factor)), max(1, round(self.height * factor))
        K = self.K * np.array([[width / self.width], [height / self.height], [1.0]])
        return Camera(self.name, self.image, self.mask, self.R, self.t, K, width, height)

    def photo(self) -> Bytes:
        """The undistorted photo, RGB, at this camera's size."""
        bgr = cv2.imread(str(self.image), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if bgr is None:
            raise FileNotFoundError(self.image)
        return np.ascontiguousarray(self._fit(np.asarray(bgr))[..., ::-1])

    def object_mask(self) -> NDArray[np.bool_] | None:
        """Where the object is, at this camera's size; None without a mask."""
        grey = cv2.imread(str(self.mask), cv2.IMREAD_GRAYSCALE) if self.mask and self.mask.exists() else None
        return None if grey is None else self._fit(np.asarray(grey)) > 127

    def _fit(self, pixels: NDArray[Any]) -> NDArray[Any]:
        if pixels.shape[:2] == (self.height, self.width):
            return pixels
        return np.asarray(cv2.resize(pixels, (self.width, self.height), interpolation=cv2.INTER_AREA))


@dataclass(frozen=True)
class Cloud:
    """Oriented coloured points: n×3 positions and unit normals, n×3 sRGB bytes."""

    points: Floats
    normals: Floats
    colours: Bytes

    def __len__(self) -> int:
        return len(self.points)

    def select(self, which: NDArray[Any]) -> "Cloud":
        """The points with these indices, or where this mask is true."""
        return Cloud(self.points[which], self.normals[which], self.colours[which])


def read_cameras(folder: Path, order: Sequence[str]) -> list[Camera]:
    """Every registered photo of `folder`/cameras.json, in the order in which photos were sent."""
    images = json.loads((folder / "cameras.json").read_bytes())["images"]
    position = {name: i for i, name in enumerate(order)}
    names = sorted(images, key=lambda name: (position.get(name, len(position)), name))
    return [_camera(folder, name, images[name]) for name in names]


def _camera(folder: Path, name: str, entry: dict[str, Any]) -> Camera:
    R, t, K = (np.asarray(entry[key], dtype=np.float64) for key in ("R", "t", "K"))
    mask = folder / entry["mask"] if entry.get("mask") else None
    return Camera(name, folder / entry["file"], mask, R, t, K, int(entry["width"]), int(entry["height"]))


def read_cloud(path: Path) -> Cloud:
    """The dense cloud; points without a usable normal or position are left out."""
    tensors = o3d.t.io.read_point_cloud(str(path)).point
    points = tensors.positions.numpy().astype(np.float64)
    normals = tensors.normals.numpy().astype(np.float64) if "normals" in tensors else np.zeros_like(points)
    colours = tensors.colors.numpy() if "colors" in tensors else np.full(points.shape, 180, np.uint8)
    length = np.linalg.norm(normals, axis=1)
    usable = np.isfinite(points).all(1) & np.isfinite(length) & (length > 0.1)
    return Cloud(points[usable], normals[usable] / length[usable, None], np.asarray(colours[usable], np.uint8))


def write_cloud(path: Path, cloud: Cloud) -> None:
    """Binary PLY: float32 positions and normals, uchar colours."""
    tensors = o3d.t.geometry.PointCloud(np.ascontiguousarray(cloud.points, np.float32))
    tensors.point.normals = o3d.core.Tensor(np.ascontiguousarray(cloud.normals, np.float32))
    tensors.point.colors = o3d.core.Tensor(np.ascontiguousarray(cloud.colours))
    o3d.t.io.write_point_cloud(str(path), tensors)
