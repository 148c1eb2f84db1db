"""Edges of triangles, counted by hand."""

from collections.abc import Callable, Sized

import numpy as np
import pytest

from services.postprocess.edges import Faces, boundary_edges, directed_edges, edge_keys, shared_edges, vertex_graph

SQUARE = np.array([[0, 1, 2], [2, 1, 3]], np.int32)  # two triangles with the edge 1–2 in common
NOTHING = np.zeros((0, 3), np.int32)


def test_an_edge_has_one_key_from_both_sides() -> None:
    """Edge 1 of the first face and edge 0 of the second run against each other; the four others are all different."""
    keys = edge_keys(SQUARE)
    assert directed_edges(SQUARE).tolist() == [[0, 1], [1, 2], [2, 0], [2, 1], [1, 3], [3, 2]]
    assert keys[1] == keys[3] and len(np.unique(keys)) == 5


def test_keys_of_large_meshes_do_not_overflow() -> None:
    """Vertices beyond 46,341, whose product does not fit 32 bits."""
    keys = edge_keys(np.array([[0, 2_000_000, 1_999_999], [1, 2_000_000, 1_999_998]], np.int32))
    assert keys.dtype == np.int64 and len(np.unique(keys)) == 6 and keys.min() >= 0


def test_shared_edges_name_both_faces_and_their_sides() -> None:
    """Faces 0 and 1, along edge 1 of the one and edge 0 of the other."""
    assert [side.tolist() for side in shared_edges(SQUARE)] == [[0], [1], [1], [0]]


def test_boundary_edges_keep_their_direction() -> None:
    """In the order of the faces."""
    assert boundary_edges(SQUARE).tolist() == [[0, 1], [2, 0], [1, 3], [3, 2]]


def test_a_graph_counts_the_faces_at_an_edge() -> None:
    """Two at the common one, one at the others, none across the square."""
    assert vertex_graph(SQUARE, 4).toarray().tolist() == [[0, 1, 1, 0], [1, 0, 2, 1], [1, 2, 0, 1], [0, 1, 1, 0]]


@pytest.mark.parametrize("measured", [edge_keys, boundary_edges, lambda faces: shared_edges(faces)[0]])
def test_no_faces_have_no_edges(measured: Callable[[Faces], Sized]) -> None:
    """An empty mesh is no error."""
    assert len(measured(NOTHING)) == 0
