"""Objects made from code: an implicit body, meshed exactly enough to be the truth.

World frame: metres, z up, the ground is z = 0, the object stands over the origin.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Field = Callable[[Floats], Floats]

# Capsules of the animal: ((x, y, z) of both ends, radius); x is its long axis, its head is at +x.
_BODY = (
    ((-0.20, 0.0, 0.32), (0.15, 0.0, 0.33), 0.135),
    ((0.15, 0.0, 0.34), (0.27, 0.0, 0.50), 0.080),
    ((0.26, 0.0, 0.52), (0.40, 0.0, 0.48), 0.075),
    ((0.27, 0.055, 0.58), (0.25, 0.085, 0.65), 0.028),
    ((0.27, -0.055, 0.58), (0.25, -0.085, 0.65), 0.028),
    ((-0.31, 0.0, 0.38), (-0.42, 0.02, 0.50), 0.035),
    ((0.15, 0.085, 0.25), (0.17, 0.10, 0.0), 0.052),
    ((0.15, -0.085, 0.25), (0.13, -0.10, 0.0), 0.052),
    ((-0.21, 0.085, 0.25), (-0.20, 0.10, 0.0), 0.055),
    ((-0.21, -0.085, 0.25), (-0.23, -0.10, 0.0), 0.055),
)
_BLEND = 0.07  # metres over which two parts melt into each other


@dataclass(frozen=True)
class Surface:
    """A triangle mesh. `vertices` n×3 (world), `triangles` m×3 counter-clockwise outward, `normals` n×3 unit, outward."""

    vertices: Floats
    triangles: NDArray[np.int32]
    normals: Floats

    @property
    def diagonal(self) -> float:
        """Length of the bounding box's diagonal, metres."""
        return float(np.linalg.norm(np.ptp(self.vertices, axis=0)))

    def joined(self, other: "Surface") -> "Surface":
        """Both, this one's vertices and triangles first."""
        triangles = np.concatenate([self.triangles, other.triangles + np.int32(len(self.vertices))])
        return Surface(np.concatenate([self.vertices, other.vertices]), triangles, np.concatenate([self.normals, other.normals]))


def capsule(points: Floats, start: Floats, end: Floats, radius: float) -> Floats:
    """Signed distance to the points within `radius` of the line from `start` to `end`, metres."""
    axis = end - start
    along = np.clip((points - start) @ axis / (axis @ axis), 0.0, 1.0)
    return np.asarray(np.linalg.norm(points - start - along[:, None] * axis, axis=1) - radius)


def smooth_union(a: Floats, b: Floats, blend: float) -> Floats:
    """Polynomial smooth minimum (Quilez)."""
    overlap = np.maximum(blend - np.abs(a - b), 0.0) / blend
    return np.asarray(np.minimum(a, b) - overlap * overlap * blend * 0.25)


def animal(points: Floats) -> Floats:
    """Signed distance (about; negative inside) of n×3 points to a rounded four-legged body with flat soles and folds in its skin."""
    distance = np.full(len(points), 10.0)
    for start, end, radius in _BODY:
        distance = smooth_union(distance, capsule(points, np.array(start), np.array(end), radius), _BLEND)
    x, y, z = points.T
    folds = 0.006 * np.sin(31 * x + 4 * np.sin(9 * z)) * np.sin(27 * z + 11 * y) + 0.002 * np.sin(83 * x + 61 * y) * np.sin(71 * z)
    return np.asarray(np.maximum(distance + folds, -z))


def gradient(field: Field, points: Floats, step: float = 1e-4) -> Floats:
    """Central differences of the field at n×3 points."""
    columns = []
    for axis in range(3):
        offset = np.zeros(3)
        offset[axis] = step
        columns.append((field(points + offset) - field(points - offset)) / (2 * step))
    return np.stack(columns, axis=1)


def surface_of(field: Field, low: Floats, high: Floats, cell: float) -> Surface:
    """Naive surface nets (Gibson 1998) on a grid of `cell` metres, then two Newton steps onto the field's zero."""
    counts = np.ceil((high - low) / cell).astype(int) + 1
    values = _sampled(field, low, counts, cell)
    vertices, index = _net_vertices(values, low, cell)
    for _ in range(2):
        slope = gradient(field, vertices)
        length = np.maximum(np.linalg.norm(slope, axis=1), 1e-6)
        move = field(vertices) / length
        vertices = vertices - np.clip(move, -0.5 * cell, 0.5 * cell)[:, None] * slope / length[:, None]
    slope = gradient(field, vertices)
    normals = slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-9)
    return Surface(vertices, _net_triangles(values, index), normals)


def _sampled(field: Field, low: Floats, counts: NDArray[np.int64], cell: float, stride: int = 4) -> Floats:
    """The field on the grid, exact near its zero; elsewhere the nearest of a grid `stride` times coarser, which has the same sign."""
    coarse_counts = (counts - 1) // stride + 2
    axes = [low[i] + cell * stride * np.arange(coarse_counts[i]) for i in range(3)]
    coarse = field(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)).reshape(tuple(coarse_counts))
    nearest = [np.minimum((np.arange(n) + stride // 2) // stride, m - 1) for n, m in zip(counts, coarse_counts, strict=True)]
    values = coarse[np.ix_(*nearest)]
    near = np.argwhere(np.abs(values) < 1.6 * stride * cell)
    values[tuple(near.T)] = field(low + cell * near)
    return values


def _net_vertices(values: Floats, low: Floats, cell: float) -> tuple[Floats, NDArray[np.int32]]:
    """One vertex per cell that the surface crosses: the mean of its edge crossings; and the index of each cell's vertex (−1: none)."""
    shape = tuple(n - 1 for n in values.shape)
    total = np.zeros((*shape, 3))
    count = np.zeros(shape)
    corners = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    for start in corners:
        for axis in range(3):
            if start[axis] == 1:
                continue
            end = tuple(1 if i == axis else start[i] for i in range(3))
            a, b = (values[tuple(slice(c, c + n) for c, n in zip(corner, shape, strict=True))] for corner in (start, end))
            crossed = (a < 0) != (b < 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                along = np.where(crossed, a / (a - b), 0.0)
            for i in range(3):
                total[..., i] += np.where(crossed, start[i] + (along if i == axis else 0.0), 0.0)
            count += crossed
    active = count > 0
    index = np.full(shape, -1, np.int32)
    index[active] = np.arange(int(active.sum()), dtype=np.int32)
    cells = np.argwhere(active)
    return low + cell * (cells + total[active] / count[active][:, None]), index


def _net_triangles(values: Floats, index: NDArray[np.int32]) -> NDArray[np.int32]:
    """Two triangles per grid edge that changes sign, joining the vertices of the four cells around it."""
    triangles = []
    inside = values < 0
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        near = [slice(None)] * 3
        far = [slice(None)] * 3
        near[axis], far[axis] = slice(None, -1), slice(1, None)
        edges = np.argwhere(inside[tuple(near)] != inside[tuple(far)])
        edges = edges[(edges[:, u] > 0) & (edges[:, v] > 0) & (edges[:, u] < values.shape[u] - 1) & (edges[:, v] < values.shape[v] - 1)]
        ring = []
        for du, dv in ((-1, -1), (0, -1), (0, 0), (-1, 0)):
            shifted = edges.copy()
            shifted[:, u] += du
            shifted[:, v] += dv
            ring.append(index[tuple(shifted.T)])
        quads = np.stack(ring, axis=1)
        outward = inside[tuple(edges.T)]
        quads = np.where(outward[:, None], quads, quads[:, ::-1])
        triangles += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
    return np.ascontiguousarray(np.concatenate(triangles), dtype=np.int32)


def rounded_animal(cell: float = 0.0055) -> Surface:
    """The demo's object: about 0.95 m from nose to tail, diagonal about 1.1 m."""
    return surface_of(animal, np.array([-0.52, -0.24, -2 * cell]), np.array([0.55, 0.24, 0.74]), cell)
