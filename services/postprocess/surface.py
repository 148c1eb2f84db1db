"""Screened Poisson reconstruction (Kazhdan and Hoppe 2013) of a subject's cloud, trimmed to what the cloud supports. World frame."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d as o3d
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from services.postprocess.capture import Cloud, Floats
from services.postprocess.carving import carved_border
from services.postprocess.edges import Faces, shared_edges
from services.postprocess.free_space import FreeSpace
from services.postprocess.isolation import Subject, point_spacing
from shared.thread_count import thread_count

BALLOON = 0.1  # of the diagonal: surface of an object farther than this from every point is none
INVENTED = 0.0075  # of the diagonal: surface farther than this from every point must not stand in space that was looked through
HOLD_REACH = 0.08  # of the diagonal, around surface that cannot be: there the border of the carved space takes over
TRIAL_DEPTH = 7
EMPTY_MARGIN = 0.01  # of the diagonal, by which a camera must have looked past a place to call it empty
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

    def vector_areas(self) -> Floats:
        """m×3: each face's normal, as long as the face is large."""
        a, b, c = self.vertices[self.faces].transpose(1, 0, 2)
        return np.asarray(np.cross(b - a, c - a) / 2)

    def areas(self) -> Floats:
        """Of each face, m."""
        return np.asarray(np.linalg.norm(self.vector_areas(), axis=1))

    def keep_faces(self, which: NDArray[np.bool_]) -> "Mesh":
        """Only these faces, and the vertices that they use."""
        used, faces = np.unique(self.faces[which], return_inverse=True)
        return Mesh(self.vertices[used], faces.reshape(-1, 3).astype(np.int32))


def face_pieces(faces: Faces) -> NDArray[np.int32]:
    """Label of each face's piece: faces are joined across edges that they share, not in a vertex alone."""
    first, second, _, _ = shared_edges(faces)
    graph = coo_matrix((np.ones(len(first), np.int8), (first, second)), shape=(len(faces), len(faces)))
    return np.asarray(connected_components(graph, directed=False)[1])


def thin(cloud: Cloud, limit: int, seed: int) -> Cloud:
    """At most `limit` points, evenly drawn."""
    if len(cloud) <= limit:
        return cloud
    return cloud.select(np.sort(np.random.default_rng(seed).choice(len(cloud), limit, replace=False)))


def reconstruct(subject: Subject, depth: int, density_trim: float, free_space: FreeSpace) -> Mesh:
    """The surface through the cloud: closed for an isolated object, trimmed where the cloud has no support for a scene."""
    if subject.isolated:
        return flatten_underside(_closed_surface(subject, depth, free_space), subject)
    points = subject.cloud.points
    mesh, density = _poisson(points, subject.cloud.normals, depth)
    supported = density >= np.quantile(density, density_trim)
    reach = FAR_FROM_POINTS * max(point_spacing(subject.cloud), _cell(points, depth))
    near, _ = cKDTree(points).query(mesh.vertices, distance_upper_bound=reach, workers=2)
    return mesh.keep_faces((supported & np.isfinite(near))[mesh.faces].all(1))


def _closed_surface(subject: Subject, depth: int, free_space: FreeSpace) -> Mesh:
    """Poisson's surface; where a coarse try stands in empty space, points on the border of the carved space hold it back."""
    points = np.vstack([subject.cloud.points, subject.footprint.points])
    normals = np.vstack([subject.cloud.normals, subject.footprint.normals])
    trial = flatten_underside(_poisson(points, normals, min(depth - 1, TRIAL_DEPTH))[0], subject)
    wrong = trial.vertices[impossible(trial, points, free_space)]
    if len(wrong):
        border = carved_border(subject.cloud, subject.plane, free_space)
        distance, _ = cKDTree(wrong).query(border.points, workers=2)
        held = border.select(distance < HOLD_REACH * _diagonal(points))
        points, normals = np.vstack([points, held.points]), np.vstack([normals, held.normals])
    mesh, _ = _poisson(points, normals, depth)
    near, _ = cKDTree(points).query(mesh.vertices, distance_upper_bound=BALLOON * _diagonal(points), workers=2)
    reach = FAR_FROM_POINTS * max(point_spacing(subject.cloud), _cell(points, depth))
    used = np.isfinite(near)[mesh.faces].all(1)
    return without_bubbles(mesh.keep_faces(used), (near < reach)[np.unique(mesh.faces[used])])


def without_bubbles(mesh: Mesh, supported: NDArray[np.bool_]) -> Mesh:
    """The largest piece, and others unless they are cavities (their faces look inwards) or less than half `supported` (n vertices)."""
    if len(mesh.faces) == 0:
        return mesh
    labels = face_pieces(mesh.faces)
    a, b, c = (mesh.vertices - mesh.vertices.mean(0))[mesh.faces].transpose(1, 0, 2)
    area, volume = mesh.areas(), (a * np.cross(b, c)).sum(1)
    pieces = np.bincount(labels, area)
    real = (np.bincount(labels, area * supported[mesh.faces].all(1)) > 0.5 * pieces) & (np.bincount(labels, volume) > 0)
    real[pieces.argmax()] = True
    return mesh.keep_faces(real[labels])


def impossible(mesh: Mesh, points: Floats, free_space: FreeSpace) -> NDArray[np.bool_]:
    """Vertices far from every point that stand in space that cameras looked through."""
    diagonal = _diagonal(points)
    distance, _ = cKDTree(points).query(mesh.vertices, workers=2)
    invented = np.flatnonzero(distance > INVENTED * diagonal)
    found = np.zeros(len(mesh.vertices), bool)
    found[invented] = free_space.empty(mesh.vertices[invented], EMPTY_MARGIN * diagonal)
    return found


def _poisson(points: Floats, normals: Floats, depth: int) -> tuple[Mesh, Floats]:
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    cloud.normals = o3d.utility.Vector3dVector(normals)
    # One thread alone gives the same mesh on every run; with all cores taken Open3D has been seen to hang.
    threads = max(1, min(4, thread_count() - 1))
    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        mesh, density = o3d.geometry.TriangleMesh.create_from_point_cloud_poisson(cloud, depth=depth, n_threads=threads)
    return Mesh.of_legacy(mesh), np.asarray(density)


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
