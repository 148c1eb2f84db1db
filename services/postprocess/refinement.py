"""Photometric refinement: vertices move along their normals to where the photos that see them agree best. World frame.

After the patch optimisation of Furukawa and Ponce (2010), done at the vertices of a mesh: where photos do not know, neighbours do. Only
displacements are smoothed, never the shape itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.postprocess.atlas import vertex_normals
from services.postprocess.capture import Camera, Floats
from services.postprocess.edges import Faces, vertex_graph
from services.postprocess.refinement_kernels import match, smooth
from services.postprocess.surface import Mesh
from services.postprocess.vertex_views import PhotoStack, stack_photos, views_of_vertices

VIEWS = 4
RADIUS = 3  # samples to each side of a patch: 7×7, a pixel of the best photo apart
SCHEDULE = ((3, 1.0), (3, 1.0), (2, 0.7), (2, 0.4))  # steps to each side, and pixels by which a step parts two photos; the last repeats
FAR = (4, 1.0)  # the same for vertices in doubt, in photos of half the size
FAR_ROUNDS = 2
SURE = 0.85  # NCC from which a vertex needs no search far away; one vertex in thirty is wrong there, half are at 0.6
ANCHOR = 3.0  # weight of a sure vertex while those in doubt move
STIFFNESS = 0.5  # of displacements, against the weight of what photos say (about 1.5 where texture is rich)
LEAST_WEIGHT = 0.2  # below it (about a pixel's uncertainty) the surface as fitted knows better
SWEEPS = 40  # of smoothing: how many vertices far a displacement reaches into what no photo knows
MOST_PX, MOST_FAR_PX = 4.0, 12.0  # that a vertex moves in all, and one that was in doubt: beyond that something else is matched
WORSE = 0.01  # loss of NCC from which a vertex goes back to where it was
TURNED = 0.0  # cosine: a face that turns farther than this has folded over

Ring = tuple[NDArray[np.int32], NDArray[np.int32]]


@dataclass(frozen=True)
class Refinement:
    """The refined mesh (same faces), and what was done: mean move in pixels of the vertices that at least two photos see, the share of
    all vertices that moved by more than a tenth of a pixel, mean NCC of the photos before and after."""

    mesh: Mesh
    mean_move_px: float
    moved: float
    ncc_before: float
    ncc_after: float

    def as_summary(self) -> dict[str, object]:
        """For the stage's report."""
        return {
            "refinement_mean_move_px": round(self.mean_move_px, 3),
            "refinement_moved": round(self.moved, 4),
            "refinement_ncc_before": round(self.ncc_before, 4),
            "refinement_ncc_after": round(self.ncc_after, 4),
        }


@dataclass(frozen=True)
class Agreement:
    """What photos say about n vertices: `offset` along the normal to their best agreement (world), its `weight` (0: unknown), mean NCC
    at the vertex and at that offset, size of a pixel there (world; 0: seen by fewer than two photos)."""

    offset: NDArray[np.float32]
    weight: NDArray[np.float32]
    ncc: NDArray[np.float32]
    best_ncc: NDArray[np.float32]
    pixel: Floats


def refine(
    mesh: Mesh, cameras: Sequence[Camera], rounds: int, progress: Callable[[float], None] = lambda fraction: None
) -> Refinement | None:
    """`rounds` of matching and moving, after the first of which vertices in doubt look farther; None where nothing can be matched."""
    if rounds == 0 or len(cameras) < 2:
        return None
    work = _Work(mesh, stack_photos(cameras))
    first = work.match(*SCHEDULE[0])
    if not (first.weight > 0).any():
        return None
    limit = np.where(first.ncc > SURE, MOST_PX, MOST_FAR_PX) * work.pixel
    work.move(first, limit)
    for k in range(1, rounds):
        progress(k / rounds)
        if k == 1:
            work.search_far(limit)
        work.move(work.match(*SCHEDULE[min(k, len(SCHEDULE) - 1)]), limit)
    return _judged(mesh, work.mesh, first, work.match(1, SCHEDULE[-1][1]), work.ring)


class _Work:
    """The mesh as it moves, and the photos that see it."""

    def __init__(self, mesh: Mesh, stack: PhotoStack) -> None:
        self.start = self.mesh = mesh
        self.stack = stack
        self.ring = neighbours(mesh.faces, len(mesh.vertices))
        self.pixel = np.zeros(len(mesh.vertices))  # world units; of unseen vertices that of the typical one
        self.look()

    def look(self) -> None:
        """Which photos see which vertex, as the mesh is now."""
        self.views = views_of_vertices(self.mesh, smooth_normals(self.mesh, self.ring), self.stack, VIEWS)

    def match(self, reach: int, step_px: float, views: NDArray[np.int16] | None = None, stack: PhotoStack | None = None) -> Agreement:
        """Where the photos (of `stack`) agree best, for vertices that have `views`."""
        stack = stack or self.stack
        self.normals = smooth_normals(self.mesh, self.ring)
        photos = (stack.poses, stack.focal, stack.photos, stack.starts, stack.sizes)
        found = Agreement(*match(self.mesh.vertices, self.normals, self.views if views is None else views, *photos, reach, step_px, RADIUS))
        if views is None and (found.pixel > 0).any():
            self.pixel = np.where(found.pixel > 0, found.pixel, np.median(found.pixel[found.pixel > 0]))
        return found

    def move(self, found: Agreement, limit: Floats) -> None:
        """Every vertex follows its photos as far as they are sure, else its neighbours; at most `limit` (n) from the start."""
        weight = np.where(found.weight > LEAST_WEIGHT, found.weight, 0.0).astype(np.float64)
        offset = smooth(found.offset / self.pixel, weight, *self.ring, STIFFNESS, SWEEPS) * self.pixel
        away = self.mesh.vertices + offset[:, None] * self.normals - self.start.vertices
        length = np.linalg.norm(away, axis=1)
        away *= np.minimum(1.0, limit / np.maximum(length, 1e-30))[:, None]
        self.mesh = unfolded(self.mesh, Mesh(self.start.vertices + away, self.mesh.faces))

    def search_far(self, limit: Floats) -> None:
        """Vertices in doubt look farther in photos of half the size, where those that are sure hold still: what they find they hand on."""
        half = self.stack.halved()
        for _ in range(FAR_ROUNDS):
            sure = self.match(1, SCHEDULE[-1][1]).ncc > SURE
            found = self.match(*FAR, np.where(sure[:, None], -1, self.views).astype(np.int16), half)
            self.move(replace(found, weight=np.where(sure, ANCHOR, found.weight).astype(np.float32)), limit)
            self.look()


def neighbours(faces: Faces, vertices: int) -> Ring:
    """Vertices that share an edge: those of i are second[first[i] : first[i + 1]]."""
    graph = vertex_graph(faces, vertices)
    return graph.indptr.astype(np.int32), graph.indices.astype(np.int32)


def smooth_normals(mesh: Mesh, ring: Ring) -> Floats:
    """Unit normals n×3, averaged with those of the neighbours: the plane of a patch that is wider than a triangle."""
    normals = vertex_normals(mesh)
    even = np.ones(len(normals))
    normals = np.stack([smooth(np.ascontiguousarray(normals[:, k]), even, *ring, 1.0, 1) for k in range(3)], 1)
    return np.asarray(normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12))


def unfolded(before: Mesh, after: Mesh) -> Mesh:
    """`after`, with the vertices of faces that folded over (and in turn those that fold for it) back where they were before."""
    vertices, across = after.vertices.copy(), _face_normals(before)
    for _ in range(10):
        turned = (across * _face_normals(Mesh(vertices, after.faces))).sum(1) < TURNED
        if not turned.any():
            return Mesh(vertices, after.faces)
        back = np.unique(after.faces[turned])
        vertices[back] = before.vertices[back]
    return before


def _face_normals(mesh: Mesh) -> Floats:
    across = mesh.vector_areas()
    return np.asarray(across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-30))


def _judged(start: Mesh, end: Mesh, first: Agreement, last: Agreement, ring: Ring) -> Refinement:
    """Without the moves that spoilt an agreement that was sure, with a soft border around them. In doubt, an NCC before and one after
    compare chance with chance, or other photos: such a move stands."""
    judged = (first.weight > 0) | (last.weight > 0)
    worse = np.where((first.ncc > SURE) & (last.ncc < first.ncc - WORSE), 1.0, 0.0)
    share = 1.0 - np.maximum(worse, smooth(worse, np.ones(len(worse)), *ring, 1.0, 2))
    mesh = unfolded(start, Mesh(start.vertices + share[:, None] * (end.vertices - start.vertices), start.faces))
    seen = first.pixel > 0
    move_px = np.linalg.norm(mesh.vertices - start.vertices, axis=1)[seen] / first.pixel[seen]
    ncc_after = np.where(share > 0.5, last.ncc, first.ncc)
    return Refinement(
        mesh,
        float(move_px.mean()),
        float((move_px > 0.1).sum() / len(seen)),
        float(first.ncc[judged].mean()),
        float(ncc_after[judged].mean()),
    )
