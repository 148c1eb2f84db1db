"""From Poisson's triangles to a mesh that can be delivered: one piece, manifold, closed where asked, within the budget. World frame."""

from collections.abc import Callable
from typing import Any

import fast_simplification
import numpy as np
import pymeshlab
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from services.postprocess.capture import Floats
from services.postprocess.edges import boundary_edges, edge_keys
from services.postprocess.surface import Mesh, face_pieces

MIN_TRIANGLES = 5_000
QUICKLY = 16  # times the triangles wanted: down to there the quick decimation is as good
SMALL_HOLE = 0.02  # of the diagonal: a hole up to this size is closed wherever it is
FOR_HOLES = 0.985  # of the budget goes to what is there, the rest closes holes
LARGE_HOLE = 0.6  # of the diagonal: what is missing is no hole but a side
PART_PIECE = 0.004  # a further piece of an object is kept when it has this share of the largest one's area
SIDE_PIECE = 0.02  # a further piece of a scene is kept when it has this share of the largest one's area


def largest_pieces(mesh: Mesh, side_share: float) -> Mesh:
    """The largest connected piece, and those with at least `side_share` of its area."""
    if len(mesh.faces) == 0:
        return mesh
    labels = face_pieces(mesh.faces)
    area = np.bincount(labels, mesh.areas())
    return mesh.keep_faces((area >= side_share * area.max())[labels])


def manifold(mesh: Mesh) -> Mesh:
    """Without duplicates, slivers of no area, edges of more than two faces and vertices that join separate fans."""
    filters = pymeshlab.MeshSet(verbose=False)
    filters.add_mesh(pymeshlab.Mesh(vertex_matrix=mesh.vertices, face_matrix=mesh.faces))
    filters.meshing_remove_duplicate_vertices()
    filters.meshing_remove_null_faces()
    filters.meshing_remove_duplicate_faces()
    filters.meshing_repair_non_manifold_edges(method="Remove Faces")
    filters.meshing_repair_non_manifold_vertices(vertdispratio=0.0)  # fans that meet in one vertex get a vertex each, in the same place
    filters.meshing_remove_unreferenced_vertices()
    repaired = filters.current_mesh()
    return Mesh(repaired.vertex_matrix(), repaired.face_matrix().astype(np.int32))


def fill_holes(mesh: Mesh, largest: float = np.inf, may_fill: Callable[[Floats], bool] = lambda patch: True) -> Mesh:
    """Holes whose rim is at most `largest` across (world units) closed by a fan around the middle of the rim, where `may_fill` allows
    a patch with these points."""
    rim = boundary_edges(mesh.faces)
    if len(rim) == 0:
        return mesh
    hole = _groups(rim, len(mesh.vertices))[rim[:, 0]]
    vertices, faces = [mesh.vertices], [mesh.faces]
    for k in np.unique(hole):
        edges = rim[hole == k]
        corners = mesh.vertices[edges[:, 0]]
        if len(edges) < 3 or float(np.linalg.norm(np.ptp(corners, axis=0))) > largest:
            continue
        if not may_fill((mesh.vertices[edges].sum(1) + corners.mean(0)) / 3):
            continue
        middle = len(mesh.vertices) + len(vertices) - 1
        vertices.append(corners.mean(0)[None])
        faces.append(np.column_stack([edges[:, 1], edges[:, 0], np.full(len(edges), middle)]).astype(np.int32))
    return Mesh(np.concatenate(vertices), np.concatenate(faces))


def _groups(edges: NDArray[np.int64], vertices: int) -> NDArray[np.int32]:
    """Label of each vertex's connected set of edges."""
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(vertices, vertices))
    return np.asarray(connected_components(graph, directed=False)[1])


def decimate(mesh: Mesh, triangles: int) -> Mesh:
    """Quadric edge collapse (Garland and Heckbert 1997) down to the budget."""
    if len(mesh.faces) <= triangles:
        return mesh
    scale = float(np.ptp(mesh.vertices, axis=0).max()) or 1.0
    centre = mesh.vertices.mean(0)
    # The library computes in single precision: a centred unit box keeps what it has.
    vertices, faces = fast_simplification.simplify(
        ((mesh.vertices - centre) / scale).astype(np.float32), mesh.faces, target_count=triangles, agg=5.0
    )
    return Mesh(vertices.astype(np.float64) * scale + centre, np.asarray(faces, np.int32))


def evenly_decimated(mesh: Mesh, triangles: int) -> Mesh:
    """As `decimate`, with triangles of one size and shape, for three times its seconds: it collapses the cheapest edge each time.

    Down to a fortieth, the quick one leaves crowds of tiny triangles on flat surface beside slivers as long as a tenth of the object.
    """
    coarse = decimate(mesh, QUICKLY * triangles)
    return Mesh.of_legacy(coarse.legacy().simplify_quadric_decimation(triangles)) if len(coarse.faces) > triangles else coarse


def subdivide(mesh: Mesh, at_least: int) -> Mesh:
    """Split at the middles of edges until there are enough triangles."""
    legacy: Any = mesh.legacy()
    while 0 < len(legacy.triangles) < at_least:
        legacy = legacy.subdivide_midpoint(1)
    return Mesh.of_legacy(legacy)


def clean(mesh: Mesh, triangles: int, closed: bool, may_fill: Callable[[Floats], bool] = lambda patch: True) -> Mesh:
    """The mesh to be textured; `may_fill` decides on a hole's patch by its points (world)."""
    side_share = PART_PIECE if closed else SIDE_PIECE
    mesh = manifold(decimate(largest_pieces(mesh, side_share), round(FOR_HOLES * triangles)))
    diagonal = float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
    mesh = fill_holes(mesh, SMALL_HOLE * diagonal)
    mesh = fill_holes(mesh, LARGE_HOLE * diagonal, may_fill) if closed else mesh
    mesh = largest_pieces(manifold(mesh), side_share)
    return subdivide(mesh, MIN_TRIANGLES)


def is_watertight(mesh: Mesh) -> bool:
    """Whether every edge has exactly two faces."""
    return len(mesh.faces) > 0 and bool((np.unique(edge_keys(mesh.faces), return_counts=True)[1] == 2).all())
