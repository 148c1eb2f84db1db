"""Edges of triangle meshes. Of face i (of m×3 vertex indices), edge 3i + k runs from corner k to the next one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix

Faces = NDArray[np.int32]
Ints = NDArray[np.int64]


def directed_edges(faces: Faces) -> Faces:
    """3m×2: from vertex, to vertex."""
    return faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)


def edge_keys(faces: Faces) -> Ints:
    """3m: the same number for the same two vertices, whichever comes first."""
    ends = np.sort(directed_edges(faces).astype(np.int64), axis=1)
    return np.asarray(ends @ np.array([int(faces.max(initial=0)) + 1, 1]))


def shared_edges(faces: Faces) -> tuple[Ints, Ints, Ints, Ints]:
    """Pairs of faces with a common edge, and which of their edges (k: from corner k to k + 1) that is."""
    key = edge_keys(faces)
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order[1:]] == key[order[:-1]])
    first, second = order[same], order[same + 1]
    return first // 3, second // 3, first % 3, second % 3


def boundary_edges(faces: Faces) -> Ints:
    """Directed edges k×2 that no other face shares."""
    _, index, count = np.unique(edge_keys(faces), return_index=True, return_counts=True)
    return np.asarray(directed_edges(faces)[np.sort(index[count == 1])], np.int64)


def vertex_graph(faces: Faces, vertices: int) -> Any:
    """n×n sparse: at (i, j) how many faces have an edge between the vertices i and j."""
    edges = directed_edges(faces)
    both = np.concatenate([edges, edges[:, ::-1]])
    return coo_matrix((np.ones(len(both)), (both[:, 0], both[:, 1])), shape=(vertices, vertices)).tocsr()
