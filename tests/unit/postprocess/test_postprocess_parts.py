"""The parts of postprocess, each against an answer that is known."""

from pathlib import Path

import numpy as np
import open3d as o3d
import pytest

from services.postprocess.atlas import locate_texels, unwrap, vertex_normals
from services.postprocess.capture import Camera
from services.postprocess.cleaning import clean, evenly_decimated, fill_holes, is_watertight, manifold
from services.postprocess.colour import linear_table, to_bytes, to_linear, to_srgb
from services.postprocess.exposure import solve_gains
from services.postprocess.focus import find_focus
from services.postprocess.holdout import compare
from services.postprocess.padding import pad, spread_over_unseen
from services.postprocess.placement import place, upright
from services.postprocess.surface import Mesh, face_pieces
from services.postprocess.texel_kernels import blend
from services.postprocess.texturing import fitting_size
from services.postprocess.visibility import edge_distance
from tests.unit.postprocess.capture import look_at, orbit_centres


def camera(centre: np.ndarray, target: np.ndarray, name: str = "a.jpg") -> Camera:
    R = look_at(centre, target)
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    return Camera(name, Path("none"), None, R, -R @ centre, K, 640, 480)


def sphere(radius: float = 1.0) -> Mesh:
    return Mesh.of_legacy(o3d.geometry.TriangleMesh.create_sphere(radius, 20))


def volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def test_pieces_are_joined_across_edges_alone() -> None:
    """Two triangles with a common edge are one piece; a third that touches them in a corner is another."""
    labels = face_pieces(np.array([[0, 1, 2], [2, 1, 3], [3, 4, 5]], np.int32))
    assert labels[0] == labels[1] != labels[2]


def test_the_texture_is_as_large_as_the_photos_resolve() -> None:
    """Half the distance asks for twice the side; the limit holds."""
    far = [camera(3 * c / np.linalg.norm(c), np.zeros(3)) for c in np.eye(3)[:2]]
    near = [camera(1.5 * c / np.linalg.norm(c), np.zeros(3)) for c in np.eye(3)[:2]]
    assert (fitting_size(sphere(), far, 4096), fitting_size(sphere(), near, 4096)) == (1024, 2048)
    assert fitting_size(sphere(), near, 512) == 512


def test_cameras_around_something_orbit_it() -> None:
    """The optical axes meet in the focus, and the cameras go around it."""
    focus = find_focus([camera(centre, np.array([0, 0, 0.35])) for centre in orbit_centres(8)])
    assert focus.orbited
    np.testing.assert_allclose(focus.point, [0, 0, 0.35], atol=1e-6)
    assert focus.up @ [0, 0, 1] > 0.99


def test_cameras_along_a_wall_orbit_nothing() -> None:
    """Parallel axes have no focus; neither has a turn on the spot."""
    along = [camera(np.array([x, -2.0, 0.5]), np.array([x, 0, 0.5])) for x in np.linspace(-1, 1, 8)]
    panned = [camera(np.array([0.01 * x, -2.0, 0.5]), np.array([x, 0, 0.5])) for x in np.linspace(-1, 1, 8)]
    assert not find_focus(along).orbited
    assert not find_focus(panned).orbited


def test_a_hole_is_closed_outward() -> None:
    """A sphere that lost a cap is watertight again, and its faces look outward."""
    whole = sphere()
    open_one = whole.keep_faces((whole.vertices[whole.faces][..., 2] < 0.8).all(1))
    closed = fill_holes(open_one)
    assert not is_watertight(open_one)
    assert is_watertight(closed)
    assert 0.8 * volume(whole) < volume(closed) <= volume(whole)


def test_only_small_holes_of_a_scene_are_closed() -> None:
    """A rim wider than the limit stays open."""
    whole = sphere()
    open_one = whole.keep_faces((whole.vertices[whole.faces][..., 2] < 0.8).all(1))
    assert len(fill_holes(open_one, largest=0.1).faces) == len(open_one.faces)


def test_a_cleaned_mesh_is_one_manifold_piece_within_the_budget() -> None:
    """Crumbs, fins and surplus triangles go; too few triangles are split."""
    big, crumb = Mesh.of_legacy(o3d.geometry.TriangleMesh.create_sphere(1.0, 90)), sphere(0.05)
    fin = np.array([[0, 1, len(big.vertices) + 3]], np.int32)
    dirty = Mesh(np.vstack([big.vertices, crumb.vertices + 3]), np.vstack([big.faces, crumb.faces + len(big.vertices), fin]))
    cleaned = clean(dirty, 6_000, closed=True)
    assert is_watertight(cleaned)
    assert 5_000 <= len(cleaned.faces) <= 6_000
    assert np.linalg.norm(cleaned.vertices, axis=1).max() < 1.01
    assert len(clean(sphere(), 6_000, closed=True).faces) >= 5_000
    assert is_watertight(manifold(cleaned))


def test_a_proxy_has_triangles_of_one_size() -> None:
    """Flat surface beside relief, forty times finer: no crowd of tiny triangles, no slivers across the whole."""
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 200), np.linspace(0, 1, 200), indexing="ij"), -1).reshape(-1, 2)
    relief = np.where(grid[:, 0] > 0.5, 0.03 * np.sin(60 * grid[:, 0]) * np.sin(60 * grid[:, 1]), 0.0)
    corner = (np.arange(199)[:, None] * 200 + np.arange(199)).ravel()
    faces = np.concatenate([np.stack([corner, corner + 200, corner + 1], 1), np.stack([corner + 1, corner + 200, corner + 201], 1)])
    proxy = evenly_decimated(Mesh(np.column_stack([grid, relief]), faces.astype(np.int32)), 2000)
    a, b, c = proxy.vertices[proxy.faces].transpose(1, 0, 2)
    edges = np.linalg.norm(np.stack([b - a, c - b, a - c]), axis=2)
    assert len(proxy.faces) <= 2000
    in_relief = (a[:, 0] > 0.55) & (b[:, 0] > 0.55) & (c[:, 0] > 0.55)
    assert np.percentile(edges[:, in_relief], 2) > 0.2 * np.median(edges[:, in_relief])
    assert edges[:, in_relief].max() < 6 * np.median(edges[:, in_relief])


def test_every_texel_knows_where_on_the_mesh_it_is() -> None:
    """Interpolating the corners' UV at a texel gives the texel's own place, for every covered texel."""
    mesh = clean(sphere(), 5_000, closed=True)
    size = 256
    uv = unwrap(mesh, size)
    texels = locate_texels(uv, size)
    place_of = (uv[texels.face] * texels.weights[..., None]).sum(1) * size
    expected = np.stack([texels.index % size + 0.5, texels.index // size + 0.5], 1)
    assert np.linalg.norm(place_of - expected, axis=1).max() < 1.05  # those beside a chart are clamped to its rim
    assert np.median(np.linalg.norm(place_of - expected, axis=1)) < 1e-3
    points = texels.on(mesh.faces, mesh.vertices)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=0.02)
    assert 0.3 < len(texels.index) / size**2 < 1


def test_gains_are_found_and_anchored_to_their_mean() -> None:
    """Photos of the same surface with known gains: the inverse gains come back, with mean log 0."""
    rng = np.random.default_rng(1)
    true_gain = 2 ** rng.normal(0, 0.15, 5)
    true_gain /= np.exp(np.log(true_gain).mean())
    surface = rng.uniform(0.05, 0.5, (4000, 1, 3))
    views = np.sort(np.argsort(rng.random((4000, 5)), axis=1)[:, :3], axis=1).astype(np.uint16)
    seen = to_srgb(surface * true_gain[views][..., None] * np.exp(rng.normal(0, 0.02, (4000, 3, 3))))
    colours = np.round(seen * 255 * 256).astype(np.uint16)
    gains = solve_gains(np.ones((4000, 3), np.float32), views, colours, 5, linear_table(), 0)
    np.testing.assert_allclose(gains, np.broadcast_to(1 / true_gain[:, None], (5, 3)), rtol=0.01)
    np.testing.assert_allclose(np.log(gains).mean(0), 0, atol=1e-9)


def blended(scores: list[float], greys: list[float], best: int = 2) -> float:
    colours = np.repeat(np.round(np.array(greys) * 256)[:, None], 3, 1).astype(np.uint16)[None]
    views = np.arange(len(scores), dtype=np.uint16)[None]
    colour, seen = blend(np.array([scores], np.float32), views, colours, np.ones((len(scores), 3)), linear_table(), best, 1.0, 0.5)
    assert seen.all()
    return float(to_srgb(colour)[0, 0] * 255)


def test_a_view_that_disagrees_is_left_out() -> None:
    """One passer-by among views that agree leaves no trace."""
    assert abs(blended([1.0, 0.9, 0.8, 0.7], [250, 100, 101, 99]) - 100) < 1.5


def test_a_view_fades_before_it_leaves_the_blend() -> None:
    """When the last blended view and the next one change ranks, the colour does not jump."""
    before = blended([1.0, 0.501, 0.500], [100, 120, 110])
    after = blended([1.0, 0.501, 0.500], [100, 110, 120])
    assert abs(before - after) < 0.1


def test_unseen_surface_takes_its_neighbours_colour() -> None:
    """No black where no photo looked: in between its neighbours, and the mean on a piece that nobody saw."""
    faces = np.array([[0, 1, 2], [2, 1, 3], [4, 5, 6]], np.int32)
    colours = np.array([[0.2] * 3, [0.4] * 3, [0] * 3, [0.6] * 3, [0] * 3, [0] * 3, [0] * 3], np.float32)
    seen = np.array([True, True, False, True, False, False, False])
    filled = spread_over_unseen(colours, seen, faces)
    np.testing.assert_allclose(filled[2], 0.4, atol=0.05)
    np.testing.assert_allclose(filled[4:], 0.4, atol=0.01)


def test_gutters_repeat_the_rim_and_nothing_is_black() -> None:
    """At least 8 texels around a chart have its rim's colour; beyond is its mean."""
    texture, covered = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), bool)
    covered[:10, :10] = True
    texture[covered] = (200, 100, 50)
    padded = pad(texture, covered)
    assert (padded == (200, 100, 50)).all()


def test_the_model_stands_upright_before_its_first_photographer() -> None:
    """+Y up, bottom on y = 0, centred, longest side 1, the first camera on the +Z side."""
    rng = np.random.default_rng(2)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    target = np.array([0, 0, 0.35])
    flat = [camera(centre, target) for centre in orbit_centres(8)]
    moved = [Camera(c.name, c.image, None, c.R @ turn.T, c.t - c.R @ turn.T @ [5, 6, 7], c.K, c.width, c.height) for c in flat]
    points = rng.uniform((-0.5, -0.3, 0), (0.5, 0.3, 0.8), (500, 3)) @ turn.T + [5, 6, 7]
    similarity = place(points, moved, None)
    placed = similarity.apply(points)
    low, high = placed.min(0), placed.max(0)
    np.testing.assert_allclose([low[1], (low + high)[0], (low + high)[2], (high - low).max()], [0, 0, 0, 1], atol=1e-9)
    first = similarity.apply(moved[0].centre[None])[0]
    assert first[2] > 0
    assert abs(first[0]) < 0.1 * first[2]
    assert np.mean([-(c.R @ similarity.R.T)[1, 1] for c in moved]) > 0.8


def test_up_alone_still_gives_a_rotation() -> None:
    """A first photo from right above has no side of its own; any front will do."""
    rotation = upright(np.array([0, 0, 1.0]), np.array([0, 0, 5.0]))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_edges_are_where_depth_jumps() -> None:
    """A slanted plane has none; a step, the outline and the mask's border do."""
    depth = np.fromfunction(lambda y, x: 5 + 0.01 * x, (40, 60)).astype(np.float32)
    assert edge_distance(depth, 500.0, None).min() > 0
    depth[:, 30:] += 1
    assert edge_distance(depth, 500.0, None)[20, 29:31].max() == 0
    mask = np.ones((40, 60), bool)
    mask[:, :10] = False
    assert (edge_distance(depth, 500.0, mask)[:, :10] == 0).all()


def test_colour_curves_are_inverse() -> None:
    """Bytes survive the way to linear light and back."""
    levels = np.arange(256)
    np.testing.assert_array_equal(to_bytes(to_linear(levels / 255)), levels)


def test_comparison_forgives_one_gain_and_nothing_else() -> None:
    """A brighter rendering scores like an exact one; noise does not."""
    photo = np.random.default_rng(3).uniform(0.1, 0.5, (2000, 3))
    assert compare(photo * 0.7, photo) > 60
    assert compare(photo[::-1], photo) < 25


def test_normals_point_outward() -> None:
    """Counter-clockwise faces seen from outside have outward normals."""
    ball = sphere()
    assert ((vertex_normals(ball) * ball.vertices).sum(1) > 0.95).all()
