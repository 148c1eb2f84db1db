"""sfm's sparse points: all of them, and those that each view sees. World frame."""

import zlib  # noqa: F401  before pycolmap: it carries a zlib of its own
from pathlib import Path

import cv2  # noqa: F401  before pycolmap, for the same reason
import numpy as np
import pycolmap

from services.mvs.views import Floats, View


def sparse_points(folder: Path, views: list[View]) -> tuple[Floats, list[Floats]]:
    """n×3 points, and for each view the m×3 that it sees; `folder` holds the binary COLMAP model."""
    model = pycolmap.Reconstruction(str(folder))
    ids = sorted(model.points3D)
    row = {point_id: k for k, point_id in enumerate(ids)}
    points = np.array([model.points3D[i].xyz for i in ids], np.float64).reshape(-1, 3)
    seen = {Path(image.name).name: _rows(image, row) for image in model.images.values()}
    return points, [points[seen.get(view.image.name, [])] for view in views]


def _rows(image: "pycolmap.Image", row: dict[int, int]) -> list[int]:
    return [row[point.point3D_id] for point in image.points2D if point.has_point3D() and point.point3D_id in row]
