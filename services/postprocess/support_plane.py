"""The plane that an object stands on: found in the dense cloud by sampling, then refined. World frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.postprocess.capture import Cloud, Floats
from services.postprocess.focus import Focus

SAMPLE = 30_000
HYPOTHESES = 400
MAX_TILT_DEG = 50.0  # of the plane's normal from the photographer's up
MIN_SHARE = 0.04  # of the points must lie in the plane
BELOW_PENALTY = 3.0  # a support plane has next to nothing below it; the flat top of a box has the box


@dataclass(frozen=True)
class Plane:
    """`normal`·x = `offset`; the object is where the left side is larger. `noise`: robust sigma of its points' heights."""

    normal: Floats
    offset: float
    noise: float

    def height(self, points: Floats) -> Floats:
        """Signed distance of points n×3."""
        return np.asarray(points @ self.normal - self.offset)


def find_support_plane(cloud: Cloud, focus: Focus, radius: float, seed: int) -> Plane | None:
    """The plane with most points in it and fewest below it, among points within `radius` of the focus; None when there is none."""
    near = np.flatnonzero(np.linalg.norm(cloud.points - focus.point, axis=1) < radius)
    rng = np.random.default_rng(seed)
    if len(near) < 500:
        return None
    sample = cloud.select(np.sort(rng.choice(near, min(SAMPLE, len(near)), replace=False)))
    tolerance = 0.006 * radius
    best = _best_hypothesis(sample, focus, tolerance, rng)
    return None if best is None else _refine(cloud.select(near), best, tolerance)


def _best_hypothesis(sample: Cloud, focus: Focus, tolerance: float, rng: np.random.Generator) -> Plane | None:
    upright = np.flatnonzero(sample.normals @ focus.up > np.cos(np.radians(MAX_TILT_DEG)))
    if len(upright) < MIN_SHARE * len(sample):
        return None
    best, best_score = None, MIN_SHARE * len(sample)
    for triple in rng.choice(upright, (HYPOTHESES, 3)):
        plane = _through(sample.points[triple], focus.up)
        if plane is None:
            continue
        height = plane.height(sample.points)
        inside = (np.abs(height) < tolerance) & (sample.normals @ plane.normal > 0.8)
        score = inside.sum() - BELOW_PENALTY * (height < -3 * tolerance).sum()
        if score > best_score:
            best, best_score = plane, score
    return best


def _through(points: Floats, up: Floats) -> Plane | None:
    normal = np.cross(points[1] - points[0], points[2] - points[0])
    length = np.linalg.norm(normal)
    if length < 1e-12:
        return None
    normal = normal / length * np.sign(normal @ up or 1.0)
    if normal @ up < np.cos(np.radians(MAX_TILT_DEG)):
        return None
    return Plane(normal, float(normal @ points.mean(0)), 0.0)


def _refine(cloud: Cloud, plane: Plane, tolerance: float) -> Plane:
    """Least squares over the points near the plane, with a tolerance that follows the noise found."""
    for _ in range(6):
        height = plane.height(cloud.points)
        inside = (np.abs(height) < tolerance) & (cloud.normals @ plane.normal > 0.8)
        if inside.sum() < 100:
            break
        plane, residual = _least_squares(cloud.points[inside], plane)
        noise = 1.4826 * float(np.median(np.abs(residual)))
        plane = Plane(plane.normal, plane.offset, noise)
        tolerance = min(tolerance, 4 * noise)
    return plane


def _least_squares(points: NDArray[np.float64], plane: Plane) -> tuple[Plane, Floats]:
    centre = points.mean(0)
    normal = np.linalg.eigh(np.cov((points - centre).T))[1][:, 0]
    normal = normal * np.sign(normal @ plane.normal or 1.0)
    fitted = Plane(normal, float(normal @ centre), 0.0)
    return fitted, fitted.height(points)
