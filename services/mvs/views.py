"""The registered photos that sfm hands over, and what a pair of them implies for a pixel. World frame of sfm, OpenCV camera axes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Maps = NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """One undistorted photo. `R`, `t`: world → camera; `K`: pixels, the first pixel's centre at (0.5, 0.5)."""

    name: str
    image: Path
    mask: Path | None
    R: Floats
    t: Floats
    K: Floats
    width: int
    height: int

    @property
    def stem(self) -> str:
        """Names the view's depth map."""
        return self.image.stem

    @property
    def centre(self) -> Floats:
        """The centre of projection, world."""
        return np.asarray(-self.R.T @ self.t)

    @property
    def axis(self) -> Floats:
        """Where it looks, unit, world."""
        return np.asarray(self.R[2])


@dataclass(frozen=True)
class Level:
    """A view at one size. `K` is in index coordinates: the first pixel's centre is at (0, 0)."""

    view: View
    K: Floats
    width: int
    height: int

    def grey(self) -> NDArray[np.uint8]:
        """The photo in grey, (height, width)."""
        return self._fit(cv2.imread(str(self.view.image), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION))

    def colour(self) -> NDArray[np.uint8]:
        """The photo in sRGB, (height, width, 3)."""
        pixels = cv2.imread(str(self.view.image), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return np.ascontiguousarray(self._fit(pixels)[..., ::-1])

    def mask(self) -> NDArray[np.bool_] | None:
        """Where the object is, or None where nobody said."""
        if self.view.mask is None:
            return None
        return np.asarray(self._fit(cv2.imread(str(self.view.mask), cv2.IMREAD_GRAYSCALE)) > 64)

    def _fit(self, pixels: Any) -> NDArray[np.uint8]:
        if pixels is None:
            raise FileNotFoundError(f"{self.view.image.name} or its mask cannot be read")
        return np.asarray(cv2.resize(pixels, (self.width, self.height), interpolation=cv2.INTER_AREA))


def load_views(folder: Path) -> list[View]:
    """The views of sfm's cameras.json, by name."""
    images = json.loads((folder / "cameras.json").read_text())["images"]
    return [_view(folder, name, images[name]) for name in sorted(images)]


def _view(folder: Path, name: str, entry: dict[str, Any]) -> View:
    mask = folder / entry["mask"] if entry.get("mask") else None
    R, t, K = (np.array(entry[key], np.float64) for key in ("R", "t", "K"))
    return View(name, folder / entry["file"], mask, R, t, K, int(entry["width"]), int(entry["height"]))


def at_level(view: View, divisor: float) -> Level:
    """The view at its size divided by `divisor`."""
    width, height = max(int(view.width / divisor), 16), max(int(view.height / divisor), 16)
    K = view.K.copy()
    K[0] *= width / view.width
    K[1] *= height / view.height
    K[0, 2] -= 0.5
    K[1, 2] -= 0.5
    return Level(view, K, width, height)


def warp(reference: Level, source: Level) -> Floats:
    """A (row by row) and b, 12 numbers: the source's homogeneous pixel of reference pixel p at inverse depth w is A·p + b·w."""
    R = source.view.R @ reference.view.R.T
    t = source.view.t - R @ reference.view.t
    return np.concatenate([(source.K @ R @ np.linalg.inv(reference.K)).ravel(), source.K @ t])


def back_project(level: Level, x: Floats, y: Floats, inverse_depth: Floats) -> Floats:
    """World points (n×3) of n pixels (index coordinates) at n inverse depths."""
    rays = np.stack([(x - level.K[0, 2]) / level.K[0, 0], (y - level.K[1, 2]) / level.K[1, 1], np.ones_like(x)], axis=1)
    return np.asarray((rays / inverse_depth[:, None] - level.view.t) @ level.view.R)
