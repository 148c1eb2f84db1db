"""Which photos see each vertex of a mesh best, and those photos as one array that compiled loops read. World frame."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from services.postprocess.capture import Bytes, Camera, Floats
from services.postprocess.refinement_kernels import choose_views, rank_view
from services.postprocess.surface import Mesh
from services.postprocess.threads import in_threads
from services.postprocess.visibility import RayCaster, edge_distance

BUFFER_PX = 640  # longest side of the depth buffers: a patch needs to know occluders to within its own size only
PHOTO_BYTES = 400_000_000  # of grey pixels in memory: beyond it all photos are shrunk alike
RANKED = 8  # views of a vertex among which those that look from directions apart are chosen


@dataclass(frozen=True)
class PhotoStack:
    """Grey photos in one flat array: photo v starts at starts[v] and has sizes[v] = (height, width) pixels; poses[v] 3×4 (R | t),
    world → camera; focal[v] = (fx, fy, cx, cy), the first pixel's centre at 0.5, 0.5."""

    cameras: Sequence[Camera]  # at the size of the photos in the stack
    photos: Bytes
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    poses: Floats
    focal: Floats

    def halved(self) -> "PhotoStack":
        """With half the pixels along each side."""
        fitted = [camera.scaled_to(max(16, round(0.5 * max(camera.width, camera.height)))) for camera in self.cameras]
        return _stacked(fitted, lambda i: cv2.resize(self._photo(i), (fitted[i].width, fitted[i].height), interpolation=cv2.INTER_AREA))

    def _photo(self, i: int) -> Bytes:
        height, width = self.sizes[i]
        return self.photos[self.starts[i] : self.starts[i] + height * width].reshape(height, width)


def stack_photos(cameras: Sequence[Camera]) -> PhotoStack:
    """Reads all photos, shrunk alike where they would not fit."""
    pixels = sum(camera.width * camera.height for camera in cameras)
    shrink = min(1.0, (PHOTO_BYTES / pixels) ** 0.5)
    fitted = [camera.scaled_to(max(16, int(shrink * max(camera.width, camera.height)))) for camera in cameras]
    return _stacked(fitted, lambda i: cv2.cvtColor(fitted[i].photo(), cv2.COLOR_RGB2GRAY))


def _stacked(cameras: Sequence[Camera], photo: Callable[[int], NDArray[Any]]) -> PhotoStack:
    sizes = np.array([(camera.height, camera.width) for camera in cameras], np.int64)
    bounds = np.concatenate([[0], np.cumsum(sizes.prod(1))])
    photos = np.empty(bounds[-1], np.uint8)
    for i, pixels in enumerate(in_threads(photo, range(len(cameras)))):
        photos[bounds[i] : bounds[i + 1]] = pixels.ravel()
    poses = np.stack([np.column_stack([camera.R, camera.t]) for camera in cameras])
    focal = np.stack([camera.K[[0, 1, 0, 1], [0, 1, 2, 2]] for camera in cameras])
    return PhotoStack(cameras, photos, bounds[:-1], sizes, poses, focal)


def views_of_vertices(mesh: Mesh, normals: Floats, stack: PhotoStack, most: int) -> NDArray[np.int16]:
    """The `most` best photos of each vertex, n×most, best first, -1: none. They see it unoccluded and look from directions apart."""
    caster, count = RayCaster(mesh), len(mesh.vertices)
    scores, views = np.zeros((count, RANKED), np.float32), np.full((count, RANKED), -1, np.int16)
    for i, camera in enumerate(stack.cameras):
        small = camera.scaled_to(BUFFER_PX)
        depth = caster.depth(small)
        edge = edge_distance(depth, float(small.K[0, 0]), small.object_mask())
        rank_view(i, mesh.vertices, normals, stack.poses[i], stack.focal[i], stack.sizes[i], depth, edge, scores, views)
    centres = np.stack([camera.centre for camera in stack.cameras])
    return np.asarray(choose_views(mesh.vertices, centres, scores, views, most))
