"""Silhouettes for free: pixels in which photos see the plane that the object stands on. Nothing stands in front of it there.

Two photos agree about every point of a plane once one is warped into the other by the homography that the plane induces (Hartley and
Zisserman, section 13.1); whatever stands on the plane is displaced and does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from services.postprocess.capture import Camera, Floats
from services.postprocess.free_space_kernels import count_through
from services.postprocess.support_plane import Plane
from services.postprocess.threads import in_threads

Bits = NDArray[np.bool_]
Float32 = NDArray[np.float32]
LONGEST_PX = 640
PARTNERS = 12  # photos that each one is compared with
MIN_ANGLE, MAX_ANGLE = 8.0, 75.0  # degrees between the directions to two photos: parallax to tell heights, and a ground that looks alike
WINDOW_PX = 7
MIN_NCC = 0.92
MIN_CONTRAST = 3.0  # grey levels, standard deviation in a window: flat patches match anything
MAX_DIFFERENCE = 20.0  # grey levels between the means of two windows
OUTLINE_POINTS = 30_000  # are enough to tell where in a photo the object is
BORDER = 0.05  # of the object in the photo, kept around it
OPENING_PX = 5  # islands narrower than this are matches by chance


@dataclass(frozen=True)
class SeenGround:
    """For each camera, whose first pixel is that of its bitmap, the pixels in which it sees the support plane."""

    cameras: Sequence[Camera]
    bitmaps: Sequence[Bits]

    def looked_past(self, points: Floats) -> NDArray[np.int32]:
        """How many photos see the plane through each of the points n×3 (world), which therefore are in the air."""
        count = np.zeros(len(points), np.int32)
        for camera, bitmap in zip(self.cameras, self.bitmaps, strict=True):
            count_through(points, camera.R, camera.t, camera.K, bitmap, count)
        return count


def find_seen_ground(cameras: Sequence[Camera], plane: Plane | None, points: Floats) -> SeenGround:
    """Compares each photo with its partners on the plane, around the object's `points` n×3 (world)."""
    if plane is None or len(points) == 0:
        return SeenGround([], [])
    points = points[:: max(1, len(points) // OUTLINE_POINTS)]
    small = [camera.scaled_to(LONGEST_PX) for camera in cameras]
    photos = list(in_threads(lambda camera: cv2.cvtColor(camera.photo(), cv2.COLOR_RGB2GRAY).astype(np.float32), small))
    partners = _partners(small, points.mean(0))

    def seen_by(i: int) -> tuple[Camera, Bits]:
        window, photo = _around(small[i], photos[i], points)
        seen = np.zeros(photo.shape, bool)
        for j in partners[i]:
            seen |= _agree(photo, *_on_plane(window, small[j], photos[j], plane))
        return window, cv2.morphologyEx(seen.astype(np.uint8), cv2.MORPH_OPEN, np.ones((OPENING_PX, OPENING_PX), np.uint8)) > 0

    found = list(in_threads(seen_by, range(len(small))))
    return SeenGround([window for window, _ in found], [bitmap for _, bitmap in found])


def _around(camera: Camera, photo: Float32, points: Floats) -> tuple[Camera, Float32]:
    """The part of the photo in which the points are, and the camera that took it."""
    local = points @ camera.R.T + camera.t
    pixels = (local @ camera.K.T)[local[:, 2] > 0]
    pixels = pixels[:, :2] / pixels[:, 2:]
    low, high = np.percentile(pixels, [0.5, 99.5], axis=0) if len(pixels) else (np.zeros(2), np.zeros(2))
    border = BORDER * float((high - low).max())
    left, top = np.clip(low - border, 0, (camera.width - 1, camera.height - 1)).astype(int)
    right, bottom = np.clip(high + border, (left + 1, top + 1), (camera.width, camera.height)).astype(int)
    K = camera.K - np.array([[0, 0, left], [0, 0, top], [0, 0, 0]])
    window = Camera(camera.name, camera.image, camera.mask, camera.R, camera.t, K, int(right - left), int(bottom - top))
    return window, photo[top:bottom, left:right]


def _partners(cameras: Sequence[Camera], middle: Floats) -> list[NDArray[np.int64]]:
    """For each camera those nearest to it by direction, from the smallest useful angle on."""
    directions = np.array([camera.centre - middle for camera in cameras])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(directions @ directions.T, -1, 1)))
    order = np.argsort(angles, axis=1, kind="stable")
    return [row[(angles[i, row] > MIN_ANGLE) & (angles[i, row] < MAX_ANGLE)][:PARTNERS] for i, row in enumerate(order)]


def _on_plane(camera: Camera, other: Camera, photo: Float32, plane: Plane) -> tuple[Float32, Bits]:
    """The other's photo as `camera` would see it, were it all on the plane, and where that is defined."""
    distance = plane.offset - float(plane.normal @ camera.centre)  # along the normal, from the camera's centre
    normal = camera.R @ plane.normal
    R = other.R @ camera.R.T
    t = other.t - R @ camera.t
    warp = other.K @ (R + np.outer(t, normal) / distance) @ np.linalg.inv(camera.K)
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], -1)
    x, y, w = np.moveaxis(rays @ warp.T, -1, 0)
    ahead = (rays @ (np.linalg.inv(camera.K).T @ normal)) / distance > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = (x / w).astype(np.float32), (y / w).astype(np.float32)
    defined = ahead & (w > 0) & (x > 0) & (y > 0) & (x < other.width) & (y < other.height)
    return np.asarray(cv2.remap(photo, x - 0.5, y - 0.5, cv2.INTER_LINEAR), np.float32), defined


def _agree(photo: Float32, warped: Float32, defined: Bits) -> Bits:
    """Where windows of both correlate, have contrast and about the same mean."""

    def mean(values: Float32) -> Float32:
        return np.asarray(cv2.boxFilter(values, cv2.CV_32F, (WINDOW_PX, WINDOW_PX)), np.float32)

    a, b = photo - 128, np.where(defined, warped, 0).astype(np.float32) - 128
    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    alike = covariance > MIN_NCC * np.sqrt(np.maximum(variance_a, MIN_CONTRAST**2) * np.maximum(variance_b, MIN_CONTRAST**2))
    return np.asarray(alike & defined & (np.abs(mean_a - mean_b) < MAX_DIFFERENCE))
