"""The region of interest: what the cameras orbit, if they orbit anything. Only pixels whose ray meets it are worth evaluating."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.mvs.views import Floats, Level, View

MAX_AXIS_MISS = 0.25  # of the distance to the cameras: optical axes that miss each other by more look at no common thing
MAX_ONE_SIDEDNESS = 0.8  # of `_arc`: 0 all around, 0.83 an arc of 120 degrees, 1 one spot
_MIN_UPRIGHTNESS = 0.3  # length of the mean of what is up in the photos: 1 level, 0.5 on a ring 60 degrees high, 0 overhead
MIN_SHARE_OF_VIEWS = 0.7  # what stands in the middle is inside the frame of most photos
MIN_POINTS = 30
_PLANE_TOLERANCE = 0.012  # of the distance to the cameras
_GROUND = 0.003  # of the distance to the cameras: what stands less high on the plane is the plane
_MARGIN = 0.12  # of the box's size, on every side
_CLEAR = 0.15  # of the box's height: what stands no higher may be rough ground, which goes on in all directions
_TOUCHING = 0.03  # of the box's size: what comes so close to a side goes on behind it
_GROWTH = 0.35  # of the box's size: how far behind such a side is looked
_RANSAC_ROUNDS = 400


@dataclass(frozen=True)
class Plane:
    """normal · x = offset; the normal is unit and points to the cameras' side. World."""

    normal: Floats
    offset: float

    def height(self, points: Floats) -> Floats:
        """Signed distance of n×3 points, positive on the cameras' side."""
        return np.asarray(points @ self.normal - self.offset)


@dataclass(frozen=True)
class Box:
    """`axes`: 3×3, rows unit and orthogonal (world), the last one up; `centre` world; `half` sizes along the axes."""

    centre: Floats
    axes: Floats
    half: Floats

    def local(self, points: Floats) -> Floats:
        """n×3 world points along the axes, from the centre."""
        return np.asarray((points - self.centre) @ self.axes.T)

    def contains(self, points: Floats) -> NDArray[np.bool_]:
        """Which of n×3 world points are inside."""
        return np.asarray((np.abs(self.local(points)) <= self.half).all(axis=1))

    def between(self, low: Floats, high: Floats) -> "Box":
        """The box from `low` to `high` along the axes, in half sizes: −1 and 1 are this box."""
        return Box(self.centre + (self.half * (low + high) / 2) @ self.axes, self.axes, self.half * (high - low) / 2)

    def corners(self) -> Floats:
        """8×3, world."""
        signs = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], float)
        return np.asarray(self.centre + (signs * self.half) @ self.axes)

    def met_by(self, level: Level) -> NDArray[np.bool_]:
        """Which pixels' rays meet the box (slab test)."""
        x = (np.arange(level.width) - level.K[0, 2]) / level.K[0, 0]
        y = (np.arange(level.height) - level.K[1, 2]) / level.K[1, 1]
        to_box = self.axes @ level.view.R.T
        origin = self.axes @ (level.view.centre - self.centre)
        enter, leave = np.zeros((level.height, level.width)), np.full((level.height, level.width), np.inf)
        for axis in range(3):
            slope = to_box[axis, 0] * x[None, :] + to_box[axis, 1] * y[:, None] + to_box[axis, 2]
            slope = np.where(np.abs(slope) < 1e-12, 1e-12, slope)
            one, other = (-self.half[axis] - origin[axis]) / slope, (self.half[axis] - origin[axis]) / slope
            enter, leave = np.maximum(enter, np.minimum(one, other)), np.minimum(leave, np.maximum(one, other))
        return np.asarray(enter <= leave)


@dataclass(frozen=True)
class Region:
    """`orbit`: whether the cameras go around something. Without it there is neither box nor plane, and every pixel counts."""

    orbit: bool
    focus: Floats | None = None
    distance: float | None = None
    plane: Plane | None = None
    box: Box | None = None

    def contains_object(self, points: Floats) -> NDArray[np.bool_]:
        """Which of n×3 world points are inside the box and not on the support plane."""
        if self.box is None:
            return np.ones(len(points), np.bool_)
        inside = self.box.contains(points)
        if self.plane is not None and self.distance is not None:
            inside &= self.plane.height(points) > _GROUND * self.distance
        return np.asarray(inside)

    def stands_clear(self, points: Floats) -> NDArray[np.bool_]:
        """Which of n×3 world points are inside the box and too high above the support plane to be rough ground."""
        inside = self.contains_object(points)
        if self.plane is not None and self.box is not None:
            inside &= self.plane.height(points) > _CLEAR * 2 * self.box.half[2]
        return inside

    def looking_beyond(self, low: Floats, high: Floats) -> "Region":
        """Grown on the sides that an object from `low` to `high` (along the axes, −1..1) touches; itself where it touches none.

        The side that the object stands on stays.
        """
        if self.box is None:
            return self
        below = np.where(low < 2 * _TOUCHING - 1, 2 * _GROWTH, 0.0)
        above = np.where(high > 1 - 2 * _TOUCHING, 2 * _GROWTH, 0.0)
        if self.plane is not None:
            below[2] = 0.0
        if not below.any() and not above.any():
            return self
        return replace(self, box=self.box.between(-1.0 - below, 1.0 + above))

    def closing_in(self, core: Box, low: Floats, high: Floats) -> "Region":
        """The box no larger than `core` and an object from `low` to `high` (along the axes, −1..1), with its margin, need."""
        if self.box is None:
            return self
        middle, half = self.box.local(core.centre[None])[0] / self.box.half, core.half / self.box.half
        least, most = np.minimum(middle - half, low - _MARGIN * half), np.maximum(middle + half, high + _MARGIN * half)
        return replace(self, box=self.box.between(np.maximum(least, -1.0), np.minimum(most, 1.0)))

    def as_json(self) -> dict[str, Any]:
        """What roi.json states; world frame."""
        plane = None if self.plane is None else {"normal": self.plane.normal.tolist(), "offset": self.plane.offset}
        box = None
        if self.box is not None:
            box = {"centre": self.box.centre.tolist(), "axes": self.box.axes.tolist(), "half": self.box.half.tolist()}
        focus = None if self.focus is None else self.focus.tolist()
        return {"orbit": self.orbit, "focus": focus, "distance": self.distance, "support_plane": plane, "box": box}

    @staticmethod
    def from_json(stated: dict[str, Any]) -> "Region":
        """What `as_json` stated, to the last bit."""
        plane, box = stated["support_plane"], stated["box"]
        return Region(
            stated["orbit"],
            None if stated["focus"] is None else np.array(stated["focus"]),
            stated["distance"],
            None if plane is None else Plane(np.array(plane["normal"]), plane["offset"]),
            None if box is None else Box(*(np.array(box[key]) for key in ("centre", "axes", "half"))),
        )


def focus_of(views: list[View]) -> tuple[Floats, float]:
    """The point nearest to all optical axes (least squares), and how far the median axis misses it."""
    centres, axes = np.array([v.centre for v in views]), np.array([v.axis for v in views])
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    point = np.linalg.lstsq(across.sum(axis=0), np.einsum("nij,nj->i", across, centres), rcond=1e-6)[0]
    misses = np.linalg.norm(np.einsum("nij,nj->ni", across, point - centres), axis=1)
    return np.asarray(point), float(np.median(misses))


def find_region(views: list[View], points: Floats, seed: int) -> Region:
    """From the cameras and the sparse points (n×3)."""
    focus, miss = focus_of(views)
    toward = np.array([v.centre for v in views]) - focus
    distances = np.linalg.norm(toward, axis=1)
    distance = float(np.median(distances))
    in_front = np.mean([(focus - v.centre) @ v.axis > 0 for v in views])
    if miss > MAX_AXIS_MISS * distance or in_front < 0.9 or _arc(views, toward) > MAX_ONE_SIDEDNESS:
        return Region(False, focus, distance)
    middle = points[_share_of_views(points, views) >= MIN_SHARE_OF_VIEWS]
    middle = middle[np.linalg.norm(middle - focus, axis=1) < 0.9 * distance]
    if len(middle) < MIN_POINTS:
        return Region(True, focus, distance)
    up = np.mean([-v.R[1] for v in views], axis=0) + toward.mean(axis=0) / distance
    plane = support_plane(middle, up / np.linalg.norm(up), _PLANE_TOLERANCE * distance, seed)
    return Region(True, focus, distance, plane, _object_box(middle, focus, distance, plane, up))


def _arc(views: list[View], toward: Floats) -> float:
    """Length of the mean horizontal direction to the cameras: 0 all around, 0.83 an arc of 120 degrees, however high they stand.

    Cameras straight above, or turned on their side, have no common upright: there the mean of the whole directions counts.
    """
    directions = toward / np.maximum(np.linalg.norm(toward, axis=1, keepdims=True), 1e-12)
    up = np.mean([-view.R[1] for view in views], axis=0)
    if np.linalg.norm(up) < _MIN_UPRIGHTNESS:
        return float(np.linalg.norm(directions.mean(axis=0)))
    up /= np.linalg.norm(up)
    level = directions - np.outer(directions @ up, up)
    return float(np.linalg.norm(level.sum(axis=0)) / max(np.linalg.norm(level, axis=1).sum(), 1e-12))


def _share_of_views(points: Floats, views: list[View]) -> Floats:
    """The share of photos whose frame each point falls into."""
    count = np.zeros(len(points))
    for view in views:
        image = (points @ view.R.T + view.t) @ view.K.T
        z = np.where(image[:, 2] > 0, image[:, 2], np.nan)
        x, y = image[:, 0] / z, image[:, 1] / z
        count += (x > 0) & (y > 0) & (x < view.width) & (y < view.height)
    return count / len(views)


def support_plane(points: Floats, up: Floats, tolerance: float, seed: int) -> Plane | None:
    """What the object stands on: the plane (within 35 degrees of level) with the most points, almost none below. None: not found."""
    rng = np.random.default_rng(seed)
    best: Plane | None = None
    most = max(0.15 * len(points), 12.0)
    for _ in range(_RANSAC_ROUNDS):
        a, b, c = points[rng.choice(len(points), 3, replace=False)]
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal)
        if length < 1e-12:
            continue
        normal = normal / length * np.sign(normal @ up)
        if normal @ up < 0.82:
            continue
        height = points @ normal - a @ normal
        on, below = int((np.abs(height) < tolerance).sum()), int((height < -3 * tolerance).sum())
        if on - 4 * below > most:
            most, best = on - 4 * below, Plane(normal, float(a @ normal))
    return None if best is None else _fitted(best, points, tolerance)


def _fitted(plane: Plane, points: Floats, tolerance: float) -> Plane:
    """The least-squares plane of the points on it."""
    for _ in range(3):
        on = points[np.abs(plane.height(points)) < tolerance]
        middle = on.mean(axis=0)
        normal = np.linalg.svd(on - middle, full_matrices=False)[2][2]
        normal = normal * np.sign(normal @ plane.normal)
        plane = Plane(normal, float(middle @ normal))
    return plane


def _object_box(points: Floats, focus: Floats, distance: float, plane: Plane | None, up: Floats) -> Box | None:
    """Around what stands on the plane, or around the points near the focus where there is no plane."""
    level = plane.normal if plane is not None else up / np.linalg.norm(up)
    tolerance = _PLANE_TOLERANCE * distance
    standing = points if plane is None else points[plane.height(points) > 2 * tolerance]
    standing = _connected_to(standing, focus, 0.08 * distance)
    if len(standing) < MIN_POINTS:
        return None
    across = standing - np.outer(standing @ level, level)
    first = np.linalg.svd(across - across.mean(axis=0), full_matrices=False)[2][0]
    axes = np.stack([first, np.cross(level, first), level])
    local = standing @ axes.T
    low, high = np.percentile(local, 0.5, axis=0), np.percentile(local, 99.5, axis=0)
    margin = _MARGIN * (high - low) + tolerance
    low, high = low - margin, high + margin
    if plane is not None:
        low[2] = plane.offset - 1.5 * tolerance
    return Box(((low + high) / 2) @ axes, axes, (high - low) / 2)


def _connected_to(points: Floats, focus: Floats, reach: float) -> Floats:
    """The cluster (single linkage within `reach`, clusters of at least a tenth of the points) whose points come nearest to the focus."""
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    if len(points) < MIN_POINTS:
        return points
    pairs = cKDTree(points).sparse_distance_matrix(cKDTree(points), reach, output_type="coo_matrix")
    labels = connected_components(pairs, directed=False)[1]
    sizes = np.bincount(labels)
    big = np.flatnonzero(sizes >= 0.1 * len(points))
    if not len(big):
        return points
    nearest = [np.percentile(np.linalg.norm(points[labels == label] - focus, axis=1), 10) for label in big]
    return np.asarray(points[labels == big[int(np.argmin(nearest))]])
