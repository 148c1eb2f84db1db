"""mesh.ply and pointcloud.ply: binary little-endian PLY with normals and colours."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open3d as o3d
from numpy.typing import NDArray

from services.export.model import Floats, Model, Similarity

VERTEX = np.dtype([("position", "<f4", 3), ("normal", "<f4", 3), ("colour", "u1", 3)])
FACE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])
PROPERTIES = [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")] + [
    f"property uchar {name}" for name in ("red", "green", "blue")
]


@dataclass(frozen=True)
class Cloud:
    """Oriented coloured points."""

    points: Floats
    normals: Floats
    colours: NDArray[np.uint8]

    @staticmethod
    def read(path: Path, similarity: Similarity) -> "Cloud":
        """A cloud of mvs or postprocess (sfm's world), brought into the model's frame."""
        tensors = o3d.t.io.read_point_cloud(str(path)).point
        points = similarity.apply(tensors.positions.numpy().astype(np.float64))
        normals = similarity.turn(tensors.normals.numpy().astype(np.float64)) if "normals" in tensors else np.zeros_like(points)
        colours = np.asarray(tensors.colors.numpy(), np.uint8) if "colors" in tensors else np.full(points.shape, 180, np.uint8)
        return Cloud(points, normals, colours)


def cloud_bytes(cloud: Cloud) -> bytes:
    """pointcloud.ply."""
    return _header(len(cloud.points), None) + _vertices(cloud.points, cloud.normals, cloud.colours)


def mesh_bytes(model: Model) -> bytes:
    """mesh.ply: vertices shared between faces (closed where the model is), coloured from the texture."""
    faces = np.empty(len(model.faces), FACE)
    faces["count"], faces["corners"] = 3, model.faces
    vertices = _vertices(model.vertices, model.normals, model.vertex_colours())
    return _header(len(model.vertices), len(model.faces)) + vertices + faces.tobytes()


def _vertices(points: Floats, normals: Floats, colours: NDArray[np.uint8]) -> bytes:
    rows = np.empty(len(points), VERTEX)
    rows["position"], rows["normal"], rows["colour"] = points, normals, colours
    return rows.tobytes()


def _header(vertices: int, faces: int | None) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0", "comment Meshwork, model frame: +Y up", f"element vertex {vertices}", *PROPERTIES]
    if faces is not None:
        lines += [f"element face {faces}", "property list uchar int vertex_indices"]
    return ("\n".join([*lines, "end_header"]) + "\n").encode()
