"""A fine mesh unfolded by way of a coarse one: the UV stay apart, small and on the side that they belong to."""

import numpy as np
import open3d as o3d
import pytest
from numpy.typing import NDArray

from services.postprocess.atlas import PROXY_FACES, Float32, locate_texels, texel_density, unwrap
from services.postprocess.proxy_charts import Charts
from services.postprocess.surface import Mesh

SIZE = 512


def _torus() -> Mesh:
    """About 20,000 faces with relief; its charts are rings and bands."""
    shape = o3d.geometry.TriangleMesh.create_torus(1.0, 0.4, 140, 72)
    mesh = Mesh.of_legacy(shape)
    bumps = 1 + 0.01 * np.sin(mesh.vertices @ np.array([31.0, 27.0, 23.0]))
    return Mesh(mesh.vertices * bumps[:, None], mesh.faces)


@pytest.fixture(scope="module")
def unfolded() -> tuple[Mesh, Float32]:
    """The torus and its UV."""
    mesh = _torus()
    assert len(mesh.faces) > 1.5 * PROXY_FACES
    return mesh, unwrap(mesh, SIZE)


def test_no_two_places_share_a_texel(unfolded: tuple[Mesh, Float32]) -> None:
    """The texel under a surface point lies where the point does, but for a few beside the charts' borders."""
    mesh, uv = unfolded
    texels = locate_texels(uv, SIZE)
    place = np.full((SIZE * SIZE, 3), np.nan)
    place[texels.index] = texels.on(mesh.faces, mesh.vertices)
    at = np.clip((uv.mean(1) * SIZE).astype(int), 0, SIZE - 1)
    distance = np.linalg.norm(place[at[:, 1] * SIZE + at[:, 0]] - mesh.vertices[mesh.faces].mean(1), axis=1)
    assert (distance * texel_density(mesh, uv, SIZE) < 3).mean() > 0.995


def test_texels_are_spread_evenly(unfolded: tuple[Mesh, Float32]) -> None:
    """Nearly all faces have at least half the mean density of texels, along both of their directions."""
    mesh, uv = unfolded
    assert uv.min() >= 0
    assert uv.max() <= 1
    corners, flat = mesh.vertices[mesh.faces], uv.astype(np.float64)
    length = np.linalg.norm(corners - corners[:, [1, 2, 0]], axis=2)
    density = (np.linalg.norm(flat - flat[:, [1, 2, 0]], axis=2) * SIZE / length).min(1)
    assert (density > 0.5 * texel_density(mesh, uv, SIZE)).mean() > 0.97


def _tube(columns: int, rows: int) -> tuple[Mesh, NDArray[np.float64]]:
    """A tube around z, and the (turn, height) 0..1 of its corners: the last column of faces ends at turn 1."""
    turn, height = np.meshgrid(np.arange(columns) / columns, np.arange(rows + 1) / rows)
    vertices = np.stack([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn), 2 * np.pi * height], -1).reshape(-1, 3)
    column, row = (grid.ravel() for grid in np.meshgrid(np.arange(columns), np.arange(rows)))
    corner = np.stack([np.stack([column, row]), np.stack([column + 1, row]), np.stack([column + 1, row + 1]), np.stack([column, row + 1])])
    index = corner[:, 1] * columns + corner[:, 0] % columns
    faces = np.concatenate([index[[0, 1, 2]].T, index[[0, 2, 3]].T])
    place = np.concatenate([corner[[0, 1, 2]], corner[[0, 2, 3]]], 2).transpose(2, 0, 1) / [columns, rows]
    return Mesh(vertices, faces.astype(np.int32)), place


def test_faces_across_a_slit_stay_small() -> None:
    """One chart may meet itself along a slit: no face is stretched from the slit's one side to the other."""
    proxy, place = _tube(24, 6)
    charts = Charts(proxy, (0.1 + 0.8 * place).astype(np.float32), np.zeros(len(proxy.faces), np.int32))
    fine, true_place = _tube(90, 40)
    uv = charts.transfer(fine, 0.02)
    assert np.ptp(uv, axis=1).max() < 0.05
    middle = np.abs(uv.mean(1) - (0.1 + 0.8 * true_place.mean(1)))
    assert np.minimum(middle[:, 0], 0.8 - middle[:, 0]).max() < 0.01
    assert middle[:, 1].max() < 0.01
