"""cameras.json: where each photo was taken from, in the model's frame."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from services.export.model import Floats, Similarity


def cameras_in_model(images: Mapping[str, Any], order: Sequence[str], similarity: Similarity) -> dict[str, Any]:
    """The deliverable from sfm's `images`, photos in the order sent: R is a rotation, the scale goes into t."""
    position = {name: i for i, name in enumerate(order)}
    names = sorted(images, key=lambda name: (position.get(name, len(position)), name))
    return {"images": {name: _camera(images[name], similarity) for name in names}}


def _camera(entry: Mapping[str, Any], similarity: Similarity) -> dict[str, Any]:
    R, t = moved_pose(np.asarray(entry["R"], np.float64), np.asarray(entry["t"], np.float64), similarity)
    pose = {"R": R.tolist(), "t": t.tolist(), "K": upper_triangular(np.asarray(entry["K"], np.float64)).tolist()}
    return {**pose, "width": int(entry["width"]), "height": int(entry["height"]), "distorted": entry.get("distorted")}


def moved_pose(R: Floats, t: Floats, similarity: Similarity) -> tuple[Floats, Floats]:
    """World-to-camera pose after x_model = s Q x_world + q: R Qᵀ, and s t - R Qᵀ q (camera lengths grow by s too)."""
    rotation = nearest_rotation(R @ similarity.R.T)
    return rotation, similarity.scale * t - rotation @ similarity.t


def nearest_rotation(matrix: Floats) -> Floats:
    """The closest rotation: rounding in files must not add up."""
    u, _, v = np.linalg.svd(matrix)
    return np.asarray(u @ np.diag([1, 1, np.sign(np.linalg.det(u @ v))]) @ v)


def upper_triangular(K: Floats) -> Floats:
    """K with exact zeros below the diagonal."""
    return np.triu(K)
