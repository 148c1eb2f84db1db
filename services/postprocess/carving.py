"""Surface for where no point is: the border of the space that no camera looked through (space carving, Kutulakos and Seitz 2000).

Undersides, sides that stereo missed and the insides of legs get points there, so that Poisson closes them along what the photos allow
instead of blowing balloons.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from services.postprocess.capture import Cloud, Floats
from services.postprocess.free_space import FreeSpace
from services.postprocess.support_plane import Plane

CELLS = 112  # along the longest side
PADDING = 4  # cells of empty space around
FAR_CELLS = 2.5  # a border cell nearer to the cloud than this is the cloud's business
SMOOTH_CELLS = 1.5
HULL_DIRECTIONS = 60


def carved_border(cloud: Cloud, plane: Plane | None, free_space: FreeSpace) -> Cloud:
    """Oriented points on the border of what may be solid, away from the cloud (world frame)."""
    low, high = cloud.points.min(0), cloud.points.max(0)
    cell = max(float((high - low).max()) / CELLS, 1e-12)
    shape = tuple(np.ceil((high - low) / cell).astype(int) + 2 * PADDING)
    start = low - PADDING * cell
    solid = _solid(cloud, plane, free_space, start, cell, shape)
    smooth = ndimage.gaussian_filter(solid.astype(np.float32), SMOOTH_CELLS)
    border = np.argwhere((smooth >= 0.5) & (ndimage.minimum_filter(smooth, 3) < 0.5))
    gradient = np.stack([component[tuple(border.T)] for component in np.gradient(smooth)], 1).astype(np.float64)
    steep = np.linalg.norm(gradient, axis=1)
    usable = steep > 1e-3
    normals = -gradient[usable] / steep[usable, None]
    # The 0.5 level lies between cell centres: one Newton step along the gradient.
    inside = smooth[tuple(border[usable].T)] - 0.5
    points = start + (border[usable] + 0.5) * cell + normals * (np.minimum(inside / steep[usable], 1.0) * cell)[:, None]
    far = cKDTree(cloud.points).query(points, distance_upper_bound=FAR_CELLS * cell, workers=2)[0] > FAR_CELLS * cell
    colours = np.full((int(far.sum()), 3), 128, np.uint8)
    return Cloud(points[far], normals[far], colours)


def _solid(
    cloud: Cloud, plane: Plane | None, free_space: FreeSpace, start: Floats, cell: float, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Cells that may be solid: in the cloud's convex hull, nearly, above the plane, not looked through; connected to most of the rest."""
    index = np.indices(shape).reshape(len(shape), -1).T
    centres = start + (index + 0.5) * cell
    maybe = _in_hull(centres, cloud.points, cell)
    if plane is not None:
        maybe &= plane.height(centres) > 0
    candidates = np.flatnonzero(maybe)
    maybe[candidates[free_space.empty(centres[candidates], 1.5 * cell)]] = False
    labels, groups = ndimage.label(maybe.reshape(shape))
    if groups == 0:
        return maybe.reshape(shape)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def _in_hull(centres: Floats, points: Floats, cell: float) -> NDArray[np.bool_]:
    """Which centres are between the cloud's extremes in every one of many directions."""
    inside = np.ones(len(centres), bool)
    for direction in _directions(HULL_DIRECTIONS):
        reach = points @ direction
        along = centres @ direction
        inside &= (along > reach.min() - 0.5 * cell) & (along < reach.max() + 0.5 * cell)
    return inside


def _directions(count: int) -> Floats:
    """Unit vectors spread over a half sphere (Fibonacci lattice)."""
    z = (np.arange(count) + 0.5) / count
    angle = np.arange(count) * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], 1)
