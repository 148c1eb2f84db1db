"""First planes for a photo: the sparse points that it sees, triangulated in its image."""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Delaunay, QhullError

from services.mvs.views import Floats, Level, Maps


def sparse_planes(level: Level, points: Floats) -> Maps:
    """(height, width, 4) planes, w = 0 outside the triangles. `points`: n×3 world points that the view sees.

    Inverse depth is linear over a plane's image, so each triangle's plane is the linear function through its corners.
    """
    planes = np.zeros((level.height, level.width, 4), np.float32)
    seen = (points @ level.view.R.T + level.view.t) @ level.K.T
    seen = seen[seen[:, 2] > 0]
    if len(seen) < 4:
        return planes
    xy, w = seen[:, :2] / seen[:, 2:], 1.0 / seen[:, 2]
    try:
        triangles = Delaunay(xy)
    except QhullError:
        return planes
    corners = xy[triangles.simplices]
    values = w[triangles.simplices]
    edges = corners[:, 1:] - corners[:, :1]
    determinant = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    rise = values[:, 1:] - values[:, :1]
    determinant = np.where(np.abs(determinant) < 1e-9, np.inf, determinant)
    gx = (rise[:, 0] * edges[:, 1, 1] - rise[:, 1] * edges[:, 0, 1]) / determinant
    gy = (rise[:, 1] * edges[:, 0, 0] - rise[:, 0] * edges[:, 1, 0]) / determinant
    face = _triangle_of_pixels(corners, level.width, level.height)
    y, x = np.nonzero(face >= 0)
    face = face[y, x]
    origin = corners[face, 0]
    planes[y, x, 0] = values[face, 0] + gx[face] * (x - origin[:, 0]) + gy[face] * (y - origin[:, 1])
    planes[y, x, 1] = gx[face]
    planes[y, x, 2] = gy[face]
    return planes


def _triangle_of_pixels(corners: Floats, width: int, height: int) -> NDArray[np.int32]:
    """(height, width): which triangle (n×3×2, index coordinates) each pixel lies in; -1: none."""
    face = np.full((height, width), -1, np.int32)
    for index, triangle in enumerate(np.round(corners * 16).astype(np.int32)):  # sixteenths of a pixel, as `shift` says
        cv2.fillConvexPoly(face, triangle, index, lineType=cv2.LINE_8, shift=4)
    return face
