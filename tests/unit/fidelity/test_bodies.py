"""Bodies made from code are what their docstrings say: closed, flat or thin, and turned outward."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.demo.capture import render
from deploy.demo.objects import Surface
from tests.benchmarks.fidelity import bodies
from tests.benchmarks.fidelity.captures import CAPTURES


def _directed_edges(surface: Surface) -> tuple[np.ndarray, np.ndarray]:
    places, welded = np.unique(np.round(surface.vertices, 9), axis=0, return_inverse=True)
    t = welded.reshape(-1)[surface.triangles]
    edges = np.concatenate([t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]])
    return np.sort(edges[:, 0] * len(places) + edges[:, 1]), np.sort(edges[:, 1] * len(places) + edges[:, 0])


@pytest.mark.parametrize("name", ["statue", "vessel", "blocks", "facade"])
def test_every_body_is_closed_and_faces_outward(name: str) -> None:
    """Each directed edge has its opposite, and the signed volume is positive."""
    surface = bodies.BODIES[name](0.02)
    there, back = _directed_edges(surface)
    assert np.array_equal(there, back)
    a, b, c = (surface.vertices[surface.triangles[:, k]] for k in range(3))
    assert float((a * np.cross(b, c)).sum() / 6) > 0.005


def test_boxes_are_joined_exactly() -> None:
    """Two boxes that share half a side, less a notch: the area is that of the solid, and no face is inside."""
    surface = bodies.carved([(0, 2, 0, 1, 0, 1), (0, 1, 1, 2, 0, 1)], [(0, 0.5, 0, 0.5, 0, 1)])
    corners = surface.vertices[surface.triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area, volume = np.linalg.norm(cross, axis=1).sum() / 2, (corners[:, 0] * cross).sum() / 6
    assert volume == pytest.approx(3 - 0.25)
    assert area == pytest.approx(2 * 2.75 + 8.0)
    np.testing.assert_allclose((cross * surface.normals[surface.triangles[:, 0]]).sum(axis=1), np.linalg.norm(cross, axis=1))


def test_tapered_faces_stay_flat() -> None:
    """A projective warp: the corners of each face lie in one plane."""
    surface = bodies.blocks(0.0)
    quads = surface.vertices.reshape(-1, 4, 3)
    off = np.einsum("qi,qi->q", quads[:, 2] - quads[:, 0], surface.normals[::4])
    assert np.abs(off).max() < 1e-9


def test_nothing_finer_than_the_legs_is_lost_by_the_grid() -> None:
    """The vessel's blade, 12 mm thin, is there on both of its sides."""
    blade = bodies.vessel(0.009).vertices
    blade = blade[blade[:, 2] > 0.8]
    assert blade[:, 1].min() == pytest.approx(-0.006, abs=5e-4) and blade[:, 1].max() == pytest.approx(0.006, abs=5e-4)


def test_a_turntables_world_stands_still(tmp_path: Path) -> None:
    """Photos from around the object differ on it and hardly beyond the disc."""
    shooting = replace(CAPTURES["animal-turntable"].shooting, views=3, kept_out=0, width=160, exposure_stops=0.0)
    render(tmp_path, bodies.BODIES["animal"](0.03), shooting)
    first, second = (np.asarray(Image.open(tmp_path / "photos" / f"view_00{i}.jpg"), dtype=float) for i in (0, 1))
    difference = np.abs(first - second).mean(axis=2)
    assert difference[:12].mean() < 1.0 and difference[40:100, 50:110].mean() > 8
