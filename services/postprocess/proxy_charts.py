"""UV of a dense mesh from the atlas of a coarse one: unfolding takes as long as the proxy does, however much relief the mesh has.

Unfolded itself, a statue of 200,000 triangles took UVAtlas 119 s; its proxy of 12,000 takes 2 s. Each face belongs to the chart of
the proxy nearest to it, and each of its corners takes the UV of the nearest point of that chart.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d as o3d
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from services.postprocess.edges import Faces, Ints, shared_edges
from services.postprocess.surface import Mesh

Float32 = NDArray[np.float32]

SMOOTHING = 4  # rounds in which a face joins the chart of two of its three neighbours
TORN = 4.0  # a face this many times larger in UV than others lies across a slit of its chart
ON_EDGE = 1e-3  # weight of a corner below which a point lies on the edge opposite


@dataclass(frozen=True)
class Charts:
    """A coarse mesh, the UV of its corners m×3×2, and each face's chart."""

    mesh: Mesh
    uv: Float32
    label: NDArray[np.int32]

    def transfer(self, mesh: Mesh, reach: float) -> Float32:
        """UV m×3×2 of another mesh's corners; `reach`: how far (UV units) a corner may lie outside its chart."""
        label = _labels(self, mesh)
        uv = np.zeros((len(mesh.faces), 3, 2))
        border = _border(self)
        scale = float(np.sqrt(uv_areas(self.uv).sum() / max(self.mesh.areas().sum(), 1e-300)))
        for chart in np.unique(label):
            faces = np.flatnonzero(label == chart)
            vertices, corner = np.unique(mesh.faces[faces], return_inverse=True)
            own = np.flatnonzero(self.label == chart)
            part = _Part(Mesh(self.mesh.vertices, self.mesh.faces[own]), self.uv[own].astype(np.float64), border[own])
            flat = part.nearest_uv(mesh.vertices[vertices], reach)[corner].reshape(-1, 3, 2)
            corners = mesh.vertices[mesh.faces[faces]]
            torn = _edge_lengths(flat).max(1) > TORN * scale * _edge_lengths(corners).max(1)
            flat[torn] = part.plane_uv(corners[torn])
            uv[faces] = flat
        return np.clip(uv, 0, 1).astype(np.float32)


def charts_of(mesh: Mesh, uv: Float32) -> Charts:
    """The charts of an unfolded mesh: faces joined over edges at which their UV agree."""
    left, right, left_edge, right_edge = shared_edges(mesh.faces)
    a, b = uv[left[:, None], (left_edge[:, None] + [0, 1]) % 3], uv[right[:, None], (right_edge[:, None] + [1, 0]) % 3]
    joined = (np.abs(a - b) < 1e-6).all((1, 2))
    graph = coo_matrix((np.ones(joined.sum()), (left[joined], right[joined])), shape=(len(mesh.faces),) * 2)
    return Charts(mesh, uv, connected_components(graph, directed=False)[1])


def _border(charts: Charts) -> NDArray[np.bool_]:
    """m×3: whether the edge opposite each corner ends its chart."""
    left, right, left_edge, right_edge = shared_edges(charts.mesh.faces)
    inner = charts.label[left] == charts.label[right]
    border = np.ones((len(charts.label), 3), bool)
    border[left[inner], (left_edge[inner] + 2) % 3] = False
    border[right[inner], (right_edge[inner] + 2) % 3] = False
    return border


def _labels(charts: Charts, mesh: Mesh) -> NDArray[np.int32]:
    """Each face's chart: that of the nearest face of the proxy, unless this looks the other way (a thin part's other side)."""
    answer = _closest(charts.mesh.vertices, charts.mesh.faces, mesh.vertices[mesh.faces].mean(1))
    nearest = answer["primitive_ids"].numpy().astype(np.int64)
    label = charts.label[nearest].astype(np.int32)
    same_side = (mesh.vector_areas() * charts.mesh.vector_areas()[nearest]).sum(1) > 0
    left, right, _, _ = shared_edges(mesh.faces)
    return _smoothed(np.where(same_side, label, -1).astype(np.int32), label, left, right)


def _smoothed(label: NDArray[np.int32], fallback: NDArray[np.int32], left: Ints, right: Ints) -> NDArray[np.int32]:
    """Labels without single faces that jut into another chart; -1 takes a neighbour's label, or at last the fallback."""
    faces = np.concatenate([left, right])
    others = np.concatenate([right, left])
    order = np.argsort(faces, kind="stable")
    faces, others = faces[order], others[order]
    slot = np.arange(len(faces)) - np.searchsorted(faces, faces)
    neighbours = np.full((len(label), 3), -1)
    neighbours[faces[slot < 3], slot[slot < 3]] = others[slot < 3]
    for _ in range(SMOOTHING):
        around = np.where(neighbours >= 0, label[neighbours], -1)
        pair = np.where(around[:, 0] == around[:, 1], around[:, 0], np.where(around[:, 1] == around[:, 2], around[:, 1], around[:, 2]))
        agree = (around == pair[:, None]).sum(1) >= 2
        lone = (label < 0) & (around.max(1) >= 0)
        label = np.where(agree & (pair >= 0), pair, np.where(lone, around.max(1), label)).astype(np.int32)
    return np.where(label < 0, fallback, label).astype(np.int32)


@dataclass(frozen=True)
class _Part:
    """One chart: its faces, their UV m×3×2, and m×3 whether the edge opposite each corner ends it."""

    mesh: Mesh
    uv: NDArray[np.float64]
    border: NDArray[np.bool_]

    def nearest_uv(self, points: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
        """UV n×2 of the nearest points; beyond the chart's border, continued in the border face's plane."""
        face, weights = self._nearest(points)
        outside = ((weights < ON_EDGE) & self.border[face]).any(1)
        result = np.einsum("nk,nkc->nc", weights, self.uv[face])
        corners = self.mesh.vertices[self.mesh.faces[face[outside]]]
        away = points[outside] - np.einsum("nk,nkc->nc", weights[outside], corners)
        result[outside] += _limited(_flattened(away, corners, self.uv[face[outside]]), reach)
        return np.asarray(result)

    def plane_uv(self, triangles: NDArray[np.float64]) -> NDArray[np.float64]:
        """UV n×3×2 of small triangles n×3×3, each laid whole into the plane of the face nearest to its middle."""
        face, weights = self._nearest(triangles.mean(1))
        corners, flat = self.mesh.vertices[self.mesh.faces[face]], self.uv[face]
        here, there = np.einsum("nk,nkc->nc", weights, corners), np.einsum("nk,nkc->nc", weights, flat)
        return np.stack([there + _flattened(triangles[:, k] - here, corners, flat) for k in range(3)], 1)

    def _nearest(self, points: NDArray[np.float64]) -> tuple[Ints, NDArray[np.float64]]:
        answer = _closest(self.mesh.vertices, self.mesh.faces, points)
        second, third = answer["primitive_uvs"].numpy().astype(np.float64).T
        return answer["primitive_ids"].numpy().astype(np.int64), np.stack([1 - second - third, second, third], 1)


def _flattened(vectors: NDArray[np.float64], corners: NDArray[np.float64], uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of vectors n×3 in the planes of triangles n×3×3, in UV: those triangles have `uv` n×3×2."""
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    aa, ab, bb = ((x * y).sum(1) for x, y in ((first, first), (first, second), (second, second)))
    av, bv = (first * vectors).sum(1), (second * vectors).sum(1)
    area = np.maximum(aa * bb - ab * ab, 1e-12 * np.maximum(aa, bb) ** 2 + 1e-300)
    s, t = (bb * av - ab * bv) / area, (aa * bv - ab * av) / area
    return np.asarray(s[:, None] * (uv[:, 1] - uv[:, 0]) + t[:, None] * (uv[:, 2] - uv[:, 0]))


def _edge_lengths(triangles: NDArray[np.float64]) -> NDArray[np.float64]:
    """n×3 of n×3×c."""
    return np.asarray(np.linalg.norm(triangles - triangles[:, [1, 2, 0]], axis=2))


def uv_areas(uv: Float32) -> NDArray[np.float64]:
    """Of triangles m×3×2."""
    a, b = (uv[:, 1] - uv[:, 0]).astype(np.float64), (uv[:, 2] - uv[:, 0]).astype(np.float64)
    return np.asarray(np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2)


def _limited(vectors: NDArray[np.float64], longest: float) -> NDArray[np.float64]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors * np.minimum(1.0, longest / np.maximum(length, 1e-300)))


def _closest(vertices: NDArray[np.float64], faces: Faces, points: NDArray[np.float64]) -> Any:
    middle = vertices.mean(0)  # the library computes in single precision
    scene = o3d.t.geometry.RaycastingScene(nthreads=0)
    scene.add_triangles((vertices - middle).astype(np.float32), faces.astype(np.uint32))
    return scene.compute_closest_points(o3d.core.Tensor((points - middle).astype(np.float32)))
