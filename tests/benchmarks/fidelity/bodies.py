"""What is photographed, beside the demo's rounded animal: each body is hard in its own way.

World frame: metres, z up, the ground is z = 0.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from deploy.demo.objects import Floats, Surface, capsule, rounded_animal, smooth_union, surface_of

Box = tuple[float, float, float, float, float, float]  # x0, x1, y0, y1, z0, z1 in metres

_FIGURE = (  # capsules of the statue: ((x, y, z) of both ends, radius)
    ((0.0, 0.0, 0.20), (0.0, 0.0, 0.46), 0.125),
    ((0.0, 0.0, 0.50), (0.01, 0.0, 0.60), 0.115),
    ((-0.02, -0.11, 0.61), (-0.02, 0.11, 0.61), 0.062),
    ((0.0, 0.0, 0.66), (0.02, 0.0, 0.74), 0.050),
    ((0.02, 0.0, 0.80), (0.025, 0.0, 0.85), 0.082),
    ((0.09, 0.0, 0.80), (0.11, 0.0, 0.79), 0.020),
    ((-0.02, -0.15, 0.59), (0.05, -0.19, 0.42), 0.042),
    ((0.05, -0.19, 0.42), (0.16, -0.06, 0.44), 0.034),
    ((-0.02, 0.15, 0.59), (0.00, 0.20, 0.38), 0.042),
    ((0.00, 0.20, 0.38), (0.13, 0.09, 0.30), 0.034),
)


def statue_field(points: Floats) -> Floats:
    """Signed distance (about) to a draped figure on a plinth; its relief is 1 to 6 mm deep, 15 to 60 mm wide."""
    x, y, z = points.T
    figure = np.full(len(points), 10.0)
    for start, end, radius in _FIGURE:
        figure = smooth_union(figure, capsule(points, np.array(start), np.array(end), radius), 0.05)
    around = np.arctan2(y, x + 1e-9)
    folds = 0.006 * np.sin(11 * around + 7 * z + 1.5 * np.sin(13 * z)) * np.clip((0.62 - z) / 0.1, 0, 1)
    curls = 0.0035 * np.sin(115 * x + 2 * np.sin(60 * z)) * np.sin(118 * y) * np.sin(120 * z) * np.clip((z - 0.80) / 0.04, 0, 1)
    chisel = 0.0013 * np.sin(230 * x + 3 * np.sin(40 * y)) * np.sin(225 * y + 70 * x) * np.cos(240 * z)
    plinth = np.maximum(np.linalg.norm(points[:, :2], axis=1) - 0.20 - 0.004 * np.sin(150 * z) - 0.003 * np.cos(24 * around), z - 0.17)
    return np.asarray(np.maximum(smooth_union(figure + folds + curls + chisel, plinth, 0.02), -z))


def statue(cell: float) -> Surface:
    """About 0.93 m high, diagonal about 1.1 m."""
    return surface_of(statue_field, np.array([-0.26, -0.27, -2 * cell]), np.array([0.26, 0.27, 0.97]), cell)


def _torus(points: Floats, centre: tuple[float, float, float], radius: float, tube: float) -> Floats:
    """Signed distance to a ring that stands in a plane of constant x."""
    x, y, z = (points - np.array(centre)).T
    return np.asarray(np.hypot(np.hypot(y, z) - radius, x) - tube)


def vessel_field(points: Floats) -> Floats:
    """Signed distance (about) to a deep open bowl on four thin legs, with two ring handles and a blade standing out of it."""
    x, y, z = points.T
    from_middle = np.linalg.norm((points - np.array([0, 0, 0.60])) * np.array([1, 1, 0.85]), axis=1)
    bowl = np.maximum(np.abs(from_middle - 0.27) - 0.014, z - 0.68)
    distance = bowl + 0.002 * np.sin(70 * x) * np.sin(65 * y) * np.sin(75 * z)
    for sx in (-1, 1):
        for sy in (-1, 1):
            leg = capsule(points, np.array([0.19 * sx, 0.17 * sy, 0.0]), np.array([0.09 * sx, 0.08 * sy, 0.34]), 0.012)
            distance = smooth_union(distance, leg, 0.015)
    for sy in (-1, 1):
        distance = smooth_union(distance, _torus(points, (0.0, 0.34 * sy, 0.60), 0.075, 0.011), 0.01)
    blade = np.maximum(np.maximum(np.abs(y) - 0.006, np.abs(x + 0.27) - 0.07), np.abs(z - 0.78) - 0.14)
    return np.asarray(np.maximum(np.minimum(distance, blade), -z))


def vessel(cell: float) -> Surface:
    """Thin parts (11 to 24 mm) and a concavity as deep as it is wide; diagonal about 1.4 m."""
    return surface_of(vessel_field, np.array([-0.38, -0.46, -2 * cell]), np.array([0.33, 0.46, 0.95]), cell)


def carved(solids: Sequence[Box], holes: Sequence[Box] = (), warp: Callable[[Floats], Floats] | None = None) -> Surface:
    """The union of boxes less the holes, exact: two triangles per face of the grid that their planes make, normals flat.

    `warp` moves n×3 points; one that maps planes to planes (projective) keeps faces flat and edges sharp.
    """
    boxes = np.array([*solids, *holes])
    planes = [np.unique(boxes[:, 2 * axis : 2 * axis + 2]) for axis in range(3)]
    filled = np.zeros(tuple(len(p) + 1 for p in planes), np.bool_)  # one empty cell around
    for i, box in enumerate(boxes):
        cells = tuple(slice(*(np.searchsorted(planes[a], box[2 * a : 2 * a + 2]) + 1)) for a in range(3))
        filled[cells] = i < len(solids)
    corners = np.concatenate([_grid_faces(filled, planes, axis) for axis in range(3)])
    if warp is not None:
        corners = warp(corners.reshape(-1, 3)).reshape(corners.shape)
    first = 4 * np.arange(len(corners), dtype=np.int32)[:, None]
    triangles = np.concatenate([first + np.array([0, 1, 2], np.int32), first + np.array([0, 2, 3], np.int32)])
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Surface(corners.reshape(-1, 3), triangles, np.repeat(normals, 4, axis=0))


def _grid_faces(filled: NDArray[np.bool_], planes: Sequence[Floats], axis: int) -> Floats:
    """k×4×3 corners, counter-clockwise from outside, of the faces across `axis` between a filled and an empty cell."""
    u, v = (axis + 1) % 3, (axis + 2) % 3
    lower, upper = np.take(filled, range(filled.shape[axis] - 1), axis), np.take(filled, range(1, filled.shape[axis]), axis)
    found = np.argwhere(lower != upper)
    outward = lower[tuple(found.T)]  # filled below the plane: it looks along +axis
    corners = np.empty((len(found), 4, 3))
    for k, (du, dv) in enumerate(((-1, -1), (0, -1), (0, 0), (-1, 0))):
        corners[:, k, axis] = planes[axis][found[:, axis]]
        corners[:, k, u] = planes[u][found[:, u] + du]
        corners[:, k, v] = planes[v][found[:, v] + dv]
    return np.where(outward[:, None, None], corners, corners[:, ::-1])


def _taper(points: Floats) -> Floats:
    """Narrower with height: a projective map, so that flat stays flat."""
    return np.asarray(points / (1 + 0.35 * points[:, 2:]))


def _turned(points: Floats, degrees: float) -> Floats:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.asarray(points @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]))


def blocks(_cell: float) -> Surface:
    """A stepped house with a gate, a niche and a turned tower: flat faces, sharp edges; diagonal about 1.1 m. Exact, whatever the cell."""
    house = carved(
        [(-0.34, 0.34, -0.22, 0.22, 0.0, 0.34), (-0.34, 0.10, -0.22, 0.22, 0.34, 0.46), (0.34, 0.42, -0.16, 0.16, 0.0, 0.10)],
        [(-0.10, 0.06, -0.22, -0.10, 0.0, 0.24), (-0.34, -0.24, -0.08, 0.10, 0.12, 0.30), (0.16, 0.26, 0.10, 0.22, 0.10, 0.26)],
        _taper,
    )
    tower = carved([(-0.11, 0.11, -0.11, 0.11, 0.0, 0.66), (-0.05, 0.05, -0.05, 0.05, 0.66, 0.74)], warp=_taper)
    turned = Surface(_turned(tower.vertices, 27) + np.array([0.17, 0.03, 0.0]), tower.triangles, _turned(tower.normals, 27))
    return house.joined(turned)


def facade(_cell: float) -> Surface:
    """The front of a building, towards +x: windows with deep reveals, ledges, pilasters; 2.6 m wide, 1.8 m high. Exact, as `blocks`."""
    columns, rows = (-0.95, -0.32, 0.31, 0.94), (0.30, 0.85, 1.38)
    windows: list[Box] = [(-0.14, 0.0, y - 0.13, y + 0.13, z - 0.16, z + 0.16) for y in columns for z in rows]
    wall: list[Box] = [(-0.25, 0.0, -1.3, 1.3, 0.0, 1.8), (0.0, 0.10, -1.3, 1.3, 0.55, 0.61), (0.0, 0.14, -1.3, 1.3, 1.66, 1.74)]
    pilasters: list[Box] = [(0.0, 0.05, y - 0.05, y + 0.05, 0.0, 1.66) for y in (-1.25, -0.635, -0.005, 0.625, 1.25)]
    sills: list[Box] = [(0.0, 0.06, y - 0.17, y + 0.17, z - 0.20, z - 0.16) for y in columns for z in rows]
    return carved([*wall, *pilasters, *sills], windows)


def clutter() -> Surface:
    """What stands around an object on a table in a room: boxes, and four walls."""
    rng = np.random.default_rng(5)
    boxes: list[Box] = []
    for i in range(10):
        angle, radius = 2 * np.pi * (i + rng.uniform(0.2, 0.8)) / 10, rng.uniform(0.8, 1.1)
        (x, y), (a, b) = radius * np.array([np.cos(angle), np.sin(angle)]), rng.uniform(0.04, 0.12, 2)
        boxes.append((x - a, x + a, y - b, y + b, 0.0, rng.uniform(0.08, 0.24)))
    room = carved([(-2.6, 2.6, -2.6, 2.6, -0.1, 2.2)], [(-2.4, 2.4, -2.4, 2.4, -0.1, 2.2)])
    return carved(boxes).joined(room)


BODIES: dict[str, Callable[[float], Surface]] = {
    "animal": rounded_animal,
    "statue": statue,
    "vessel": vessel,
    "blocks": blocks,
    "facade": facade,
}
CELLS = {"animal": 0.0055, "statue": 0.004, "vessel": 0.004, "blocks": 0.0, "facade": 0.0}  # metres, of the grid that each is meshed on
