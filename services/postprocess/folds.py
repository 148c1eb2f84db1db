"""Where a surface that was moved runs through itself or turned inside out, and how deep the body is behind it."""

from typing import Any

import numpy as np
import open3d as o3d
from numpy.typing import NDArray

from services.postprocess.capture import Floats
from services.postprocess.surface import Mesh

Bits = NDArray[np.bool_]
SKIN = 0.001  # of the diagonal: how far off a face its two sides are looked at; sheets nearer to each other than this touch
SLIVER = 5e-7  # of the squared diagonal: faces smaller than this have no side to speak of
SIDES_SAMPLES = 3  # rays that vote on a place


def folded(mesh: Mesh, faces: NDArray[np.int64], diagonal: float) -> Bits:
    """Which of the `faces`, by index, do not part inside from outside: just behind them must be the body, just before them none.

    A place is inside when rays from it cross the surface an odd number of times. That fails behind a sheet that turned inside out
    and behind two that run through each other, whatever the surface looked like before.
    """
    if len(faces) == 0:
        return np.zeros(0, bool)
    across = Mesh(mesh.vertices, mesh.faces[faces]).vector_areas()
    area = np.linalg.norm(across, axis=1, keepdims=True)
    skin = SKIN * diagonal * across / np.maximum(area, 1e-30)
    middle, scene = mesh.vertices[mesh.faces[faces]].mean(1), _scene(mesh)
    wrong = ~_inside(scene, middle - skin) | _inside(scene, middle + skin)
    return np.asarray(wrong & (area[:, 0] > SLIVER * diagonal**2))


def depth_behind(mesh: Mesh, normals: Floats, which: NDArray[np.int64], diagonal: float) -> Floats:
    """How far the body reaches behind the vertices `which`, straight in (world units); 0 where there is no body behind them."""
    inward = -normals[which]
    rays = np.hstack([mesh.vertices[which] + SKIN * diagonal * inward, inward]).astype(np.float32)
    hit = _scene(mesh).cast_rays(o3d.core.Tensor(rays))
    leaves = (hit["primitive_normals"].numpy() * inward).sum(1) > 0  # from inside one sees the back of a face
    return np.where(leaves & np.isfinite(hit["t_hit"].numpy()), hit["t_hit"].numpy(), 0.0).astype(np.float64)


def _scene(mesh: Mesh) -> Any:
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(mesh.vertices.astype(np.float32)), o3d.core.Tensor(mesh.faces.astype(np.uint32)))
    return scene


def _inside(scene: Any, places: Floats) -> Bits:
    return np.asarray(scene.compute_occupancy(o3d.core.Tensor(places.astype(np.float32)), nsamples=SIDES_SAMPLES).numpy() > 0.5)
