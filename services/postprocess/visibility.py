"""What each camera sees of the mesh: depth buffers by ray casting, and how far each pixel is from a jump in depth."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import open3d as o3d
from numpy.typing import NDArray

from services.postprocess.capture import Camera, Floats
from services.postprocess.surface import Mesh

BUFFER_PX = 1000  # longest side of a depth buffer: finer ones cost time and tell no more
JUMP_PX = 8.0  # a jump in depth of this many pixel sizes between neighbours is an edge: steeper than 83 degrees


@dataclass(frozen=True)
class View:
    """Buffers of one camera, h×w float32: depth (z; infinite: nothing) and pixels to the nearest jump or mask border."""

    depth: NDArray[np.float32]
    edge: NDArray[np.float32]


class RayCaster:
    """Casts rays at one mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self._corners = _box_corners(mesh.vertices)
        self._scene = o3d.t.geometry.RaycastingScene(nthreads=0)
        self._scene.add_triangles(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))

    def depth(self, camera: Camera) -> NDArray[np.float32]:
        """z of the surface at every pixel centre of the camera, infinite where there is none."""
        left, top, right, bottom = _window(self._corners, camera)
        depth = np.full((camera.height, camera.width), np.inf, np.float32)
        if right > left and bottom > top:
            K = camera.K - np.array([[0, 0, left], [0, 0, top], [0, 0, 0]])
            depth[top:bottom, left:right] = self.hits(replace(camera, K=K, width=right - left, height=bottom - top))[0]
        return depth

    def hits(self, camera: Camera) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Depth h×w, face h×w (-1: none) and weights of corners 1 and 2, h×w×2."""
        answer = self._scene.cast_rays(o3d.core.Tensor(pixel_rays(camera)))
        depth = answer["t_hit"].numpy()  # rays have z = 1 in the camera: the parameter is the depth
        face = np.where(np.isfinite(depth), answer["primitive_ids"].numpy().astype(np.int64), -1)
        return depth, face, answer["primitive_uvs"].numpy()


def _box_corners(vertices: Floats) -> Floats:
    """The eight corners of the box around vertices n×3."""
    low, high = vertices.min(0), vertices.max(0)
    return np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])


def _window(corners: Floats, camera: Camera) -> tuple[int, int, int, int]:
    """Columns and rows (left, top, right, bottom; ends excluded) that hold all between these corners: rays beside it meet nothing."""
    seen = corners @ camera.R.T + camera.t
    if seen[:, 2].min() <= 1e-6 * np.abs(seen).max():
        return 0, 0, camera.width, camera.height
    image = (seen / seen[:, 2:]) @ camera.K[:2].T
    (left, top), (right, bottom) = np.floor(image.min(0) - 1), np.ceil(image.max(0) + 1)
    return max(0, int(left)), max(0, int(top)), min(camera.width, int(right)), min(camera.height, int(bottom))


def pixel_rays(camera: Camera) -> NDArray[np.float32]:
    """Rays h×w×6 through the pixel centres: origin, and direction with z = 1 in the camera."""
    x = (np.arange(camera.width) + 0.5 - camera.K[0, 2]) / camera.K[0, 0]
    y = (np.arange(camera.height) + 0.5 - camera.K[1, 2]) / camera.K[1, 1]
    rays = np.empty((camera.height, camera.width, 6), np.float32)
    rays[..., :3] = camera.centre
    for k in range(3):
        np.add((x * camera.R[0, k])[None], (y * camera.R[1, k] + camera.R[2, k])[:, None], out=rays[..., 3 + k], casting="same_kind")
    return rays


def view_of(caster: RayCaster, camera: Camera) -> View:
    """Depth and edge buffers of a camera."""
    small = camera.scaled_to(BUFFER_PX)
    depth = caster.depth(small)
    mask = small.object_mask()
    return View(depth, edge_distance(depth, float(small.K[0, 0]), mask))


def edge_distance(depth: NDArray[np.float32], focal_px: float, mask: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Pixels to the nearest jump in depth, or to the mask's border; 0 on one and outside the mask."""
    finite = np.where(np.isfinite(depth), depth, 1e9).astype(np.float32)
    near, far = cv2.erode(finite, np.ones((3, 3))), cv2.dilate(finite, np.ones((3, 3)))
    smooth = far - near <= JUMP_PX * near / focal_px
    if mask is not None:
        smooth &= mask
    return np.asarray(cv2.distanceTransform(smooth.astype(np.uint8), cv2.DIST_L2, 5), np.float32)
