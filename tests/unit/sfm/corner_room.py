"""A scene whose pictures can be computed exactly: the corner of a room, its floor and two walls painted at random.

The three planes are x = 0, y = 0 and z = 0; cameras are inside, where all coordinates are positive, so nothing hides anything.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SIDE = 4.0  # what lies further from the corner is grey
_TEXELS = 1024


@dataclass(frozen=True)
class View:
    """One picture: world to camera, OpenCV axes; SIMPLE_RADIAL intrinsics, the first pixel's centre at (0.5, 0.5)."""

    centre: Floats
    R: Floats
    focal: float
    k: float
    width: int
    height: int

    @property
    def t(self) -> Floats:
        """Of world to camera."""
        return -self.R @ self.centre


def looking_at(centre: tuple[float, ...], target: tuple[float, ...], focal: float, size: tuple[int, int], k: float = 0.0) -> View:
    """A level camera at `centre`; y is up in the world."""
    eye = np.array(centre, float)
    forward = np.array(target, float) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    return View(eye, np.stack([right, np.cross(forward, right), forward]), focal, k, *size)


def around(count: int, size: tuple[int, int] = (480, 360), focal: float = 520.0, k: float = 0.0) -> list[View]:
    """`count` views on an arc around the corner, at changing heights."""
    angles = np.linspace(np.radians(20), np.radians(70), count)
    return [
        looking_at((3.4 * np.cos(a), 1.2 + 0.4 * np.sin(5 * i), 3.4 * np.sin(a)), (0.5, 0.5, 0.5), focal, size, k)
        for i, a in enumerate(angles)
    ]


def picture(view: View, seed: int = 0) -> NDArray[np.uint8]:
    """(h, w, 3) RGB, averaged over 2 × 2 samples a pixel."""
    rays = _rays(view) @ view.R
    with np.errstate(divide="ignore", invalid="ignore"):
        depths = np.where(rays < -1e-9, -view.centre / rays, np.inf)
    plane = depths.argmin(axis=-1)
    points = view.centre + depths.min(axis=-1)[..., None] * rays
    image = np.full((*plane.shape, 3), 128, np.uint8)
    for axis in range(3):
        u, v = (points[..., other].astype(np.float32) / SIDE * _TEXELS for other in range(3) if other != axis)
        painted = cv2.remap(_paint(seed + axis), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(128, 128, 128))
        image[plane == axis] = painted[plane == axis]
    return cv2.resize(image, (view.width, view.height), interpolation=cv2.INTER_AREA)


def write_ingest(folder: Path, views: list[View], pictures: list[NDArray[np.uint8]] | None = None, **entry: object) -> Path:
    """`inputs/ingest` of a workspace with these views as v0.png, v1.png, …; `entry` goes into every photo of photos.json."""
    ingest = folder / "inputs" / "ingest"
    (ingest / "photos").mkdir(parents=True)
    photos = []
    for index, view in enumerate(views):
        pixels = pictures[index] if pictures else picture(view)
        cv2.imwrite(str(ingest / "photos" / f"{index:04d}.png"), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        size = {"width": view.width, "height": view.height}
        photos.append({"name": f"v{index}.png", "file": f"photos/{index:04d}.png", **size, **entry})
    (ingest / "photos.json").write_text(json.dumps({"photos": photos}))
    return folder


def _rays(view: View) -> Floats:
    """(2h, 2w, 3) directions in the camera's frame, lens distortion undone by fixed-point iteration."""
    x = (np.arange(2 * view.width) + 0.5) / 2 - view.width / 2
    y = (np.arange(2 * view.height) + 0.5) / 2 - view.height / 2
    distorted = np.stack(np.meshgrid(x, y), axis=-1) / view.focal
    straight = distorted.copy()
    for _ in range(10 if view.k else 0):
        straight = distorted / (1 + view.k * (straight**2).sum(axis=-1, keepdims=True))
    return np.concatenate([straight, np.ones((*straight.shape[:2], 1))], axis=-1)


@cache
def _paint(seed: int) -> NDArray[np.uint8]:
    random, paint = np.random.default_rng(seed), np.full((_TEXELS, _TEXELS, 3), 128, np.uint8)
    for _ in range(2500):
        x, y, width, height = random.integers((0, 0, 6, 6), (_TEXELS, _TEXELS, 60, 60))
        paint[y : y + height, x : x + width] = random.integers(0, 256, 3)
    return cv2.GaussianBlur(paint, (0, 0), 1.0)


def aligned_error(found: Floats, truth: Floats) -> Floats:
    """(n,) distances of (n, 3) points after the best similarity (Umeyama 1991), in units of `truth`."""
    a, b = found - found.mean(axis=0), truth - truth.mean(axis=0)
    u, singular, vt = np.linalg.svd(b.T @ a)
    turn = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ turn @ vt
    scale = (singular * np.diag(turn)).sum() / (a**2).sum()
    return np.asarray(np.linalg.norm(scale * a @ rotation.T - b, axis=1))
