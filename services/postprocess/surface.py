"""Screened Poisson reconstruction (Kazhdan and Hoppe 2013) of a subject's cloud, trimmed to what the cloud supports. World frame."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d as o3d
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from services.postprocess.capture import Cloud, Floats
from services.postprocess.isolation import Subject, point_spacing

Faces = NDArray[np.int32]
BALLOON = 0.2  # of the diagonal: surface of an object farther than this from every point is none
FAR_FROM_POINTS = 4.0  # spacings from the nearest point at which surface counts as invented


@dataclass(frozen=True)
class Mesh:
    """Vertices n×3 and faces m×3, counter-clockwise seen from outside."""

    vertices: Floats
    faces: Faces

    def legacy(self) -> Any:
        """As Open3D's mesh."""
        return o3d.geometry.TriangleMesh(o3d.utility.Vector3dVector(self.vertices), o3d.utility.Vector3iVector(self.faces))

    @staticmethod
    def of_legacy(mesh: Any) -> "Mesh":
        """From Open3D's mesh."""
        return Mesh(np.asarray(mesh.vertices).copy(), np.asarray(mesh.triangles).astype(np.int32))

    def keep_faces(self, which: NDArray[np.bool_]) -> "Mesh":
        """Only these faces, and the vertices that they use."""
        used, faces = np.unique(self.faces[which], return_inverse=True)
        return Mesh(self.vertices[used], faces.reshape(-1, 3).astype(np.int32))


def thin(cloud: Cloud, limit: int, seed: int) -> Cloud:
    """At most `limit` points, evenly drawn."""
    if len(cloud) <= limit:
        return cloud
    return cloud.select(np.sort(np.random.default_rng(seed).choice(len(cloud), limit, replace=False)))


def reconstruct(subject: Subject, depth: int, density_trim: float) -> Mesh:
    """The surface through the cloud: closed for an isolated object with a footprint, trimmed where the cloud has no support otherwise."""
    points = np.vstack([subject.cloud.points, subject.footprint.points])
    normals = np.vstack([subject.cloud.normals, subject.footprint.normals])
    mesh, density = _poisson(points, normals, depth)
    spacing = point_spacing(subject.cloud)
    if subject.isolated:
        return flatten_underside(_near_cloud(mesh, points, BALLOON * _diagonal(points)), subject)
    supported = density >= np.quantile(density, density_trim)
    near, _ = cKDTree(points).query(mesh.vertices, distance_upper_bound=FAR_FROM_POINTS * max(spacing, _cell(points, depth)), workers=1)
    return mesh.keep_faces((supported & np.isfinite(near))[mesh.faces].all(1))


def _poisson(points: Floats, normals: Floats, depth: int) -> tuple[Mesh, Floats]:
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    cloud.normals = o3d.utility.Vector3dVector(normals)
    # One thread alone gives the same mesh on every run; with all cores taken Open3D has been seen to hang.
    threads = max(1, min(4, (os.cpu_count() or 2) - 1))
    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        mesh, density = o3d.geometry.TriangleMesh.create_from_point_cloud_poisson(cloud, depth=depth, n_threads=threads)
    return Mesh.of_legacy(mesh), np.asarray(density)


def _near_cloud(mesh: Mesh, points: Floats, reach: float) -> Mesh:
    """Without the balloons that Poisson blows where no point holds it; holes in between stay bridged."""
    distance, _ = cKDTree(points).query(mesh.vertices, distance_upper_bound=reach, workers=1)
    return mesh.keep_faces(np.isfinite(distance)[mesh.faces].all(1))


def flatten_underside(mesh: Mesh, subject: Subject) -> Mesh:
    """Nothing of the object is below the plane that it stands on."""
    if subject.plane is None:
        return mesh
    below = np.minimum(subject.plane.height(mesh.vertices), 0.0)
    return Mesh(mesh.vertices - below[:, None] * subject.plane.normal, mesh.faces)


def _diagonal(points: Floats) -> float:
    return float(np.linalg.norm(points.max(0) - points.min(0)))


def _cell(points: Floats, depth: int) -> float:
    """Side of Poisson's finest cells."""
    return float(1.1 * (points.max(0) - points.min(0)).max() / 2**depth)
