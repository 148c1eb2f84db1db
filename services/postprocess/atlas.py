"""UV atlas: charts of the mesh laid out in a square texture, and where each texel lies on the mesh.

UV origin is the texture's top left corner (glTF): u to the right, v down. The centre of texel (x, y) is at
((x + 0.5) / size, (y + 0.5) / size).
"""

from dataclasses import dataclass

import numpy as np
import open3d as o3d
import xatlas
from numpy.typing import NDArray

from services.postprocess.capture import Floats
from services.postprocess.cleaning import evenly_decimated, manifold
from services.postprocess.edges import Faces, boundary_edges
from services.postprocess.proxy_charts import charts_of, uv_areas
from services.postprocess.surface import Mesh
from services.postprocess.texel_kernels import rasterise

GUTTER_PX = 8  # between charts, so that mip levels and JPEG blocks do not mix them
MAX_STRETCH = 0.33
# UVAtlas measures distances within a part: 12,000 faces in one part took 19 s, in eight 1.5 s, with smaller stretch.
FACES_PER_PARTITION = 1_500
MIN_PARTITIONS = 4
PROXY_FACES = 12_000  # what is unfolded in place of finer meshes
REACH_PX = 3.0  # texels by which a finer mesh may overlap the border of the proxy's charts: less than half the gutter

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Texels:
    """Covered texels: flat index into the texture, face, and weights of the face's three corners."""

    index: NDArray[np.int64]
    face: NDArray[np.int32]
    weights: Float32  # n×3, sum 1

    def on(self, faces: Faces, values: NDArray[np.floating]) -> Float32:
        """Values n×c of vertices, interpolated at the texels."""
        result = np.zeros((len(self.face), values.shape[1]), np.float32)
        single = values.astype(np.float32)
        for k in range(3):
            result += single[faces[self.face, k]] * self.weights[:, k, None]
        return result


def unwrap(mesh: Mesh, size: int) -> Float32:
    """UV of every corner, m×3×2, charts apart by the gutter; of a fine mesh, by way of a coarser one's charts."""
    if len(mesh.faces) > 1.5 * PROXY_FACES:
        proxy = manifold(evenly_decimated(mesh, PROXY_FACES))
        return charts_of(proxy, _unfolded(proxy, size)).transfer(mesh, REACH_PX / size)
    return _unfolded(mesh, size)


def _unfolded(mesh: Mesh, size: int) -> Float32:
    try:
        return _uvatlas(mesh, size)
    except RuntimeError:  # UVAtlas refuses what is not manifold to its taste
        return _xatlas(mesh, size)


def _uvatlas(mesh: Mesh, size: int) -> Float32:
    tensor = o3d.t.geometry.TriangleMesh.from_legacy(mesh.legacy())
    partitions = max(MIN_PARTITIONS, round(len(mesh.faces) / FACES_PER_PARTITION))
    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        tensor.compute_uvatlas(size=size, gutter=GUTTER_PX, max_stretch=MAX_STRETCH, parallel_partitions=partitions)
    uv = np.asarray(tensor.triangle.texture_uvs.numpy(), np.float32)
    if uv.shape != (len(mesh.faces), 3, 2) or not np.isfinite(uv).all():
        raise RuntimeError("UVAtlas changed the triangles")
    return uv


def _xatlas(mesh: Mesh, size: int) -> Float32:
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_iterations = 1
    packing.resolution, packing.padding, packing.bilinear = size, GUTTER_PX, True
    atlas.generate(charts, packing)
    _, faces, uv = atlas[0]
    return np.asarray(np.asarray(uv, np.float32)[faces])


def locate_texels(uv: Float32, size: int) -> Texels:
    """Every texel whose centre is inside a triangle, and those up to one texel beside a chart."""
    face, weights = rasterise(uv.astype(np.float64) * size, size)
    index = np.flatnonzero(face.ravel() >= 0)
    first, second = weights.reshape(-1, 2)[index].T
    return Texels(index, face.ravel()[index], np.stack([1 - first - second, first, second], 1).astype(np.float32))


def vertex_normals(mesh: Mesh) -> Floats:
    """Area-weighted unit normals n×3."""
    across, corners, count = mesh.vector_areas(), mesh.faces.ravel(), len(mesh.vertices)
    normals = np.stack([np.bincount(corners, np.repeat(across[:, k], 3), count) for k in range(3)], 1)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 1e-20, normals / np.maximum(length, 1e-20), (0.0, 0.0, 1.0))


def texel_density(mesh: Mesh, uv: Float32, size: int) -> float:
    """Texels per world unit of length: the root of texels over area."""
    area = float(mesh.areas().sum())
    covered = uv_areas(uv).sum() * size**2
    return float(np.sqrt(covered / max(area, 1e-20)))


def open_edges(mesh: Mesh) -> int:
    """Edges with a face on one side only."""
    return len(boundary_edges(mesh.faces))
