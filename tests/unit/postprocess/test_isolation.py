"""Which points are the object: thin surface, parts whose joints are missing, and what is neither."""

import numpy as np
import open3d as o3d
from numpy.typing import NDArray

from services.postprocess.capture import Cloud
from services.postprocess.isolation import main_cluster, without_strays
from services.postprocess.support_plane import Plane
from services.postprocess.surface import Mesh, without_bubbles

Array = NDArray[np.float64]
GROUND = Plane(np.array([0, 0, 1.0]), 0.0, 0.001)


def cloud(points: Array, normals: Array) -> Cloud:
    return Cloud(points, normals, np.zeros(points.shape, np.uint8))


def grid(size: float, step: float, at: tuple[float, float, float]) -> Array:
    """A level sheet of points."""
    x, y = np.meshgrid(np.arange(0, size, step), np.arange(0, size, step))
    return np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)]) + at


def rod(x: float, y: float, low: float, high: float, radius: float = 0.015) -> Array:
    """A standing rod's side."""
    angle, z = np.meshgrid(np.linspace(0, 2 * np.pi, 24, endpoint=False), np.arange(low, high, 0.004))
    return np.column_stack([x + radius * np.cos(angle.ravel()), y + radius * np.sin(angle.ravel()), z.ravel()])


def body() -> Array:
    """A ball of radius 0.3 above the ground."""
    mesh = o3d.geometry.TriangleMesh.create_sphere(0.3, 200).translate((0, 0, 0.75))
    return np.asarray(mesh.vertices)


def test_thinly_sampled_surface_is_no_stray() -> None:
    """A sheet with a fiftieth of another's density stays; as sparse points that lie in no sheet go."""
    rng = np.random.default_rng(0)
    dense, thin = grid(1, 0.01, (0, 0, 0)), grid(1, 0.07, (1, 0, 0))
    loose = rng.uniform(0, 0.5, (60, 3)) + np.array([0, 0, 2.0])
    up = np.array([0, 0, 1.0])
    normals = rng.normal(size=loose.shape)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    sheets = np.vstack([dense, thin])
    kept = without_strays(cloud(np.vstack([sheets, loose]), np.vstack([np.broadcast_to(up, sheets.shape), normals])))
    assert (kept.points[:, 2] > 1).sum() == 0
    assert len(kept) > 0.98 * len(sheets)


def test_legs_apart_from_the_body_are_parts_of_it() -> None:
    """Rods under the body stay although a gap parts them from it; so does what is near; what stands aside or lies flat does not."""
    legs, handle, post = rod(0.12, 0.0, 0.0, 0.30), rod(0.33, 0.0, 0.7, 0.9), rod(0.75, 0.0, 0.0, 0.4)
    carpet = grid(0.15, 0.004, (-0.1, -0.1, 0.005))
    parts = [body(), legs, handle, post, carpet]
    kept = np.isin(np.arange(sum(map(len, parts))), main_cluster(np.vstack(parts), np.array([0, 0, 0.75]), GROUND))
    shares = [each.mean() for each in np.split(kept, np.cumsum([len(part) for part in parts])[:-1])]
    assert min(shares[:3]) > 0.9, shares
    assert max(shares[3:]) == 0, shares


def test_without_a_plane_only_sizeable_groups_stay() -> None:
    """Nothing tells what stands on what."""
    kept = main_cluster(np.vstack([body(), rod(0.12, 0.0, 0.0, 0.30)]), np.array([0, 0, 0.75]))
    assert kept.max() < len(body())


def test_bubbles_and_cavities_are_no_pieces() -> None:
    """A ball that no point supports goes, and so does one whose faces look inwards; a supported one beside the body stays."""
    balls = [o3d.geometry.TriangleMesh.create_sphere(r, 20).translate((x, 0, 0)) for r, x in ((1.0, 0), (0.2, 2), (0.2, 3), (0.2, 0))]
    balls[3].triangles = o3d.utility.Vector3iVector(np.asarray(balls[3].triangles)[:, ::-1])
    mesh = Mesh.of_legacy(balls[0] + balls[1] + balls[2] + balls[3])
    kept = without_bubbles(mesh, np.abs(mesh.vertices[:, 0] - 3) > 0.5)
    middles = np.unique(np.round(kept.vertices[:, 0]))
    assert middles.max() == 2
    assert np.linalg.norm(kept.vertices, axis=1).min() > 0.9
