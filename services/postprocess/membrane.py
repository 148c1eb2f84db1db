"""Surface that no point supports, replaced by what bends least between its rims and stays out of the air. World frame.

Poisson closes what stereo left open with a bulge. The surface in between that bends least, held tight a little, goes on with the rim's
slope and lies nearer to what is there (thin plate under tension; Botsch and Sorkine 2008 for the operators). Where it still stands
in space that photos looked through, it is pushed in. A gap so large that it is a whole side of the object has no rims to go between:
there Poisson's stays. Where the new surface folds (the least surface of a thin neck is none at all) it stops on the way from Poisson's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from services.postprocess.atlas import vertex_normals
from services.postprocess.capture import Floats
from services.postprocess.edges import Faces, directed_edges, vertex_graph
from services.postprocess.folds import depth_behind, folded
from services.postprocess.isolation import Subject, point_spacing
from services.postprocess.support_plane import Plane
from services.postprocess.surface import Mesh

Bits = NDArray[np.bool_]
SUPPORT = 0.002  # of the diagonal: surface nearer to a point than this is that point's
SPACINGS = 2.0  # or, in a sparse cloud, nearer than this many distances between points
SURE = 3.0  # a gap is left to Poisson unless its middle is this many times farther from every point
MIN_RIM = 12  # edges to supported vertices: what hangs on fewer has no rim to go on from
MAX_BEND = 0.04  # of the diagonal: how far a plate may stand off the minimal surface
SOLE = 0.02  # of the diagonal: surface nearer than this to the points that close the underside is theirs
TENSION_LENGTH = 0.01  # of the diagonal: beyond it a membrane's area counts for more than its bending
TAUT_ROUNDS = 4
PUSH_ROUNDS = 3
PUSH_STEP, PUSH_REACH = 0.003, 0.08  # of the diagonal
PUSH_WEIGHT = 0.1  # of the typical diagonal entry of the energy
PUSH_DEPTH = 0.5  # of the body behind a place: no push is deeper
A_SIDE = 0.35  # of the area: what is missing in one part is no gap between rims but a side that nobody photographed
THIN, PINCHED = 0.005, 0.25  # of the diagonal, and of the body behind a place before: thinner is a neck that collapses
LAYINGS = 2  # how often a plate that folded is laid, the second time from where it stopped
BACK_OFFS, BACK_OFF = 10, 0.8  # how often, and to which share of what is left, a plate that folds goes back towards Poisson's surface
HELD_RINGS = 3  # edges around a fold that go back with it
EASING_ROUNDS = 8  # over which the share of the way grows back to the whole
CREASE_RINGS = 3  # edges around a fold in a kept side within which it is laid anew after all
MIN_COTANGENT, MAX_COTANGENT = 0.02, 20.0


@dataclass(frozen=True)
class Restored:
    """The mesh, which vertices were invented, and in how many pieces."""

    mesh: Mesh
    invented: Bits
    holes: int

    def invented_share(self) -> float:
        """Share of the area in faces with an invented corner, 0..1."""
        area = self.mesh.areas()
        return float(area[self.invented[self.mesh.faces].any(1)].sum() / max(area.sum(), 1e-30))


def stretch_unsupported(mesh: Mesh, subject: Subject, in_air: Callable[[Floats], Bits]) -> Restored:
    """The closed mesh with its unsupported parts laid anew; `in_air`: which of n×3 places photos looked through."""
    diagonal = float(np.linalg.norm(np.ptp(subject.cloud.points, axis=0)))
    invented, holes = unsupported(mesh, subject, diagonal)
    moving = invented & ~_sides(mesh, invented, diagonal)
    if not moving.any() or moving.all():
        return Restored(mesh, invented, holes)
    found, part = mesh, _parts(mesh.faces, moving)
    for _ in range(LAYINGS):
        laid = _laid(found, moving, subject.plane, diagonal, in_air)
        vertices, held = _without_folds(found, laid, moving, diagonal)
        found = Mesh(vertices, mesh.faces)
        moving &= np.isin(part, part[held])  # from where it stopped, the rest of the way may be straight
        if not moving.any():
            break
    return Restored(found, invented, holes)


def _laid(mesh: Mesh, moving: Bits, plane: Plane | None, diagonal: float, in_air: Callable[[Floats], Bits]) -> Floats:
    """Vertices with the `moving` ones on a plate that keeps out of the air and above the plane."""
    taut = _taut(mesh, moving)
    tension = (TENSION_LENGTH * diagonal) ** -2
    vertices = _thin_plate(Mesh(taut, mesh.faces), moving, tension, np.zeros(len(taut)), taut)
    vertices = _near(vertices, taut, MAX_BEND * diagonal)
    vertices = _near(_push_in(Mesh(vertices, mesh.faces), moving, tension, diagonal, in_air), vertices, PUSH_REACH * diagonal)
    if plane is not None:
        below = np.where(moving, np.minimum(plane.height(vertices), 0.0), 0.0)
        vertices = vertices - below[:, None] * plane.normal
    return vertices


def _without_folds(mesh: Mesh, laid: Floats, moving: Bits, diagonal: float) -> tuple[Floats, Bits]:
    """The vertices `laid` n×3, around folds only part of the way there from `mesh`: ever less of it, until nothing folds any more; and
    which did not get all the way.

    The way back ends in a surface without new folds, so the web between two legs keeps but a remnant where its plate would pinch.
    """
    share, vertices = np.ones(len(laid)), laid
    near = _adjacency(mesh.faces, len(laid))
    for attempt in range(BACK_OFFS):
        wrong = _new_folds(mesh, vertices, moving, diagonal) & moving
        if not wrong.any():
            break
        held = _around(wrong, mesh.faces, HELD_RINGS)
        share[held] *= BACK_OFF if attempt < BACK_OFFS - 1 else 0.0
        for _ in range(EASING_ROUNDS):  # no steps between what is held and what is not
            share = np.where(held, share, np.minimum(share, near @ share))
        vertices = np.where(moving[:, None], mesh.vertices + share[:, None] * (laid - mesh.vertices), laid)
    return vertices, moving & (share < 1)


def _adjacency(faces: Faces, count: int) -> Any:
    """The operator n×n that takes the mean over a vertex's neighbours."""
    near = vertex_graph(faces, count)
    return sparse.diags(1 / np.maximum(np.asarray(near.sum(1)).ravel(), 1.0)) @ near


def _new_folds(mesh: Mesh, vertices: Floats, moving: Bits, diagonal: float) -> Bits:
    """Vertices that moved and are in faces that fold now, but did not in `mesh`, or have hardly a body behind them any more."""
    faces = np.flatnonzero(moving[mesh.faces].any(1))
    faces = faces[folded(Mesh(vertices, mesh.faces), faces, diagonal)]
    faces = faces[~folded(mesh, faces, diagonal)]
    found = np.zeros(len(vertices), bool)
    found[mesh.faces[faces]] = True
    loose = np.flatnonzero(moving)
    now = depth_behind(Mesh(vertices, mesh.faces), vertex_normals(Mesh(vertices, mesh.faces)), loose, diagonal)
    then = depth_behind(mesh, vertex_normals(mesh), loose, diagonal)
    found[loose[now < np.minimum(THIN * diagonal, PINCHED * then)]] = True
    return found


def _around(which: Bits, faces: Faces, rings: int) -> Bits:
    """These vertices and those within some edges of them."""
    grown = which.copy()
    for _ in range(rings):
        grown[faces[grown[faces].any(1)]] = True
    return grown


def _sides(mesh: Mesh, invented: Bits, diagonal: float) -> Bits:
    """Vertices of parts with so large a share of the area that they are whole sides, save where those are folded themselves."""
    area = mesh.areas()
    share = np.bincount(mesh.faces.ravel(), np.repeat(area / 3, 3), len(invented)) / max(float(area.sum()), 1e-30)
    part = _parts(mesh.faces, invented)
    sides = invented & (np.bincount(part, share * invented)[part] > A_SIDE)
    faces = np.flatnonzero(sides[mesh.faces].all(1))
    creased = np.zeros(len(sides), bool)
    creased[mesh.faces[faces[folded(mesh, faces, diagonal)]]] = True  # fans across large holes
    return np.asarray(sides & ~_around(creased, mesh.faces, CREASE_RINGS))


def _parts(faces: Faces, which: Bits) -> NDArray[np.int32]:
    """Label of each vertex's part of those marked, connected along edges; others are parts of their own."""
    edges = directed_edges(faces)
    edges = edges[which[edges].all(1)]
    graph = sparse.coo_matrix((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(len(which), len(which)))
    return np.asarray(connected_components(graph, directed=False)[1])


def unsupported(mesh: Mesh, subject: Subject, diagonal: float) -> tuple[Bits, int]:
    """Vertices in parts that reach far from every point, and the number of such parts."""
    reach = max(SUPPORT * diagonal, SPACINGS * point_spacing(subject.cloud))
    # Without a bound, the middle of a round base, as far from all points of its rim, would visit the whole tree.
    distance = cKDTree(subject.cloud.points).query(mesh.vertices, distance_upper_bound=1.01 * SURE * reach, workers=2)[0]
    loose = distance > reach
    if len(subject.footprint):
        soles = cKDTree(subject.footprint.points)
        loose &= ~np.isfinite(soles.query(mesh.vertices, distance_upper_bound=SOLE * diagonal, workers=2)[0])
    edges = directed_edges(mesh.faces)
    rim = edges[loose[edges[:, 0]] & ~loose[edges[:, 1]]]
    part = _parts(mesh.faces, loose)
    held = np.bincount(part[rim[:, 0]], minlength=part.max() + 1)
    far = np.unique(part[loose & (distance > SURE * reach) & (held[part] >= MIN_RIM)])
    return loose & np.isin(part, far), len(far)


def _near(vertices: Floats, base: Floats, limit: float) -> Floats:
    """The vertices n×3, brought to within `limit` of `base` where an ill-shaped rim threw them far."""
    offset = vertices - base
    length = np.linalg.norm(offset, axis=1, keepdims=True)
    return np.asarray(base + offset * np.minimum(1.0, limit / np.maximum(length, 1e-30)))


def _taut(mesh: Mesh, moving: Bits) -> Floats:
    """Minimal surface between the rims, nearly: a few solutions of Laplace's equation on the surface so far."""
    vertices = mesh.vertices.copy()
    for _ in range(TAUT_ROUNDS):
        stiffness, _ = laplacian(vertices, mesh.faces)
        vertices[moving] = _solve(stiffness, moving, np.zeros(len(vertices)), vertices)
    return vertices


def _thin_plate(mesh: Mesh, moving: Bits, tension: float, weight: Floats, targets: Floats) -> Floats:
    """Least bending and area, with a pull of `weight` (n, of the typical stiffness) to `targets` n×3."""
    stiffness, mass = laplacian(mesh.vertices, mesh.faces)
    bending = stiffness @ sparse.diags(1 / np.maximum(mass, 0.05 * np.median(mass))) @ stiffness
    energy = bending + tension * stiffness
    pull = weight * np.median(energy.diagonal()[moving])
    vertices = mesh.vertices.copy()
    vertices[moving] = _solve(energy, moving, pull, np.where(moving[:, None], targets, vertices))
    return vertices


def _solve(energy: Any, moving: Bits, pull: Floats, positions: Floats) -> Floats:
    """Positions of the `moving` vertices that minimise the energy and the pull to their own `positions`, the others held."""
    free, held = np.flatnonzero(moving), np.flatnonzero(~moving)
    rows = energy.tocsr()[free]
    right = pull[free, None] * positions[free] - rows[:, held] @ positions[held]
    return np.asarray(splu((rows[:, free] + sparse.diags(pull[free])).tocsc()).solve(np.ascontiguousarray(right)))


def _push_in(mesh: Mesh, moving: Bits, tension: float, diagonal: float, in_air: Callable[[Floats], Bits]) -> Floats:
    """Vertices that stand in the air are pulled to the first place behind them that does not, the others follow."""
    vertices, targets = mesh.vertices, mesh.vertices.copy()
    weight = np.zeros(len(vertices))
    inside = np.flatnonzero(moving)
    for _ in range(PUSH_ROUNDS):
        laid = Mesh(vertices, mesh.faces)
        normals = vertex_normals(laid)
        deepest = np.minimum(PUSH_DEPTH * depth_behind(laid, normals, inside, diagonal), PUSH_REACH * diagonal)
        reached, pushed = _first_solid(vertices[inside], -normals[inside], deepest, diagonal, in_air)
        if not pushed.any():
            break
        targets[inside[pushed]], weight[inside[pushed]] = reached[pushed], PUSH_WEIGHT
        vertices = _thin_plate(Mesh(vertices, mesh.faces), moving, tension, weight, targets)
    return vertices


def _first_solid(
    start: Floats, direction: Floats, deepest: Floats, diagonal: float, in_air: Callable[[Floats], Bits]
) -> tuple[Floats, Bits]:
    """The first place along each ray n×3 that nobody looked through; whether it is no deeper than allowed and not the start itself."""
    steps = np.arange(0, PUSH_REACH, PUSH_STEP) * diagonal
    places = start[:, None] + steps[:, None] * direction[:, None]
    solid = ~in_air(places.reshape(-1, 3)).reshape(len(start), len(steps))
    first = solid.argmax(1)
    return places[np.arange(len(start)), first], solid.any(1) & (first > 0) & (steps[first] <= deepest)


def laplacian(vertices: Floats, faces: Faces) -> tuple[Any, Floats]:
    """The cotangent operator n×n (positive semidefinite) and each vertex's share of the area, n."""
    count, rows, columns, values = len(vertices), [], [], []
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        u, v = vertices[faces[:, i]] - vertices[faces[:, k]], vertices[faces[:, j]] - vertices[faces[:, k]]
        across = np.maximum(np.linalg.norm(np.cross(u, v), axis=1), 1e-30)
        # Obtuse and flat triangles would make weights negative or endless.
        cotangent = np.clip((u * v).sum(1) / across, MIN_COTANGENT, MAX_COTANGENT) / 2
        rows += [faces[:, i], faces[:, j]]
        columns += [faces[:, j], faces[:, i]]
        values += [cotangent, cotangent]
    weights = sparse.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(count, count))
    mass = np.asarray(np.bincount(faces.ravel(), np.repeat(across / 6, 3), count), np.float64)
    return (sparse.diags(np.asarray(weights.sum(1)).ravel()) - weights).tocsr(), mass
