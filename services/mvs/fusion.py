"""From depth maps to one oriented, coloured cloud: keep what several views agree on, let the best one deliver it.

Every step reads one view and its neighbours, so memory does not grow with the number of views.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from services.mvs.consistency_kernels import agreement, camera_normals, fit_slopes, owned
from services.mvs.depth_maps import Scene, stacked
from services.mvs.views import Floats, Level, Maps, back_project, warp

_FIT_RADIUS = 2

# A point of a cloud, as a PLY has its vertices: where it is and its normal (unit, towards the cameras), both world; sRGB.
POINT = np.dtype([("point", "<f4", 3), ("normal", "<f4", 3), ("colour", "u1", 3)])
Cloud = NDArray[np.void]  # n of those


@dataclass(frozen=True)
class MapQuality:
    """`completeness`: share of the region's pixels with a depth that neighbours confirm; `confidence`: their mean NCC."""

    completeness: float
    confidence: float


def _warps(scene: Scene, index: int, divisor: int) -> tuple[Floats, Floats, Floats]:
    """Warps to the sources, back from them, and the sources' fx, fy, cx, cy."""
    reference = scene.level(index, divisor)
    sources = [scene.level(k, divisor) for k in scene.selections[index].checks]
    intrinsics = np.array([_intrinsics(level) for level in sources]).reshape(-1, 4)
    there, back = (np.array(w).reshape(-1, 12) for w in ([warp(reference, s) for s in sources], [warp(s, reference) for s in sources]))
    return there, back, intrinsics


def _intrinsics(level: Level) -> Floats:
    return np.array([level.K[0, 0], level.K[1, 1], level.K[0, 2], level.K[1, 2]])


def filtered_map(scene: Scene, index: int) -> MapQuality:
    """Keeps what the view's neighbours confirm, with slopes: for the fusion and the stage's depth maps."""
    params, divisor = scene.params, scene.params.levels[-1]
    sources = scene.selections[index].checks
    planes = np.array(scene.load("final", index))
    others = stacked([scene.load("final", k) for k in sources], 4)
    there, back, _ = _warps(scene, index, divisor)
    least = min(params.min_consistent_views, max(len(sources), 1))
    merged, _ = agreement(
        planes, others, there, back, 1.0 - params.min_confidence, least, params.max_reprojection_px, params.max_depth_error
    )
    merged = without_speckles(merged, params.min_speckle_px, params.max_depth_error)
    fitted = fit_slopes(merged, _FIT_RADIUS, params.max_depth_error)
    np.save(scene.path("fitted", index), fitted)
    kept = fitted[..., 0] > 0
    confidence = np.clip(1.0 - planes[..., 3][kept], 0.0, 1.0)
    evaluated = max(int((planes[..., 0] > 0).sum()), 1)
    return MapQuality(float(kept.sum() / evaluated), float(confidence.mean()) if kept.any() else 0.0)


def without_speckles(inverse_depth: Maps, least_px: int, most_step: float) -> Maps:
    """The map without connected patches under `least_px` pixels; neighbours are connected when they differ by less than `most_step`."""
    if least_px <= 0:
        return inverse_depth
    valid = inverse_depth > 0
    steps = np.zeros(inverse_depth.shape, np.float64)
    steps[valid] = np.log(inverse_depth[valid]) / most_step * 16
    if valid.any():
        steps[valid] -= steps[valid].min() - 64
    quantised = np.clip(steps, 0, 32000).astype(np.int16)
    cv2.filterSpeckles(quantised, 0, least_px, 16)
    return np.where(quantised > 0, inverse_depth, np.float32(0.0))


def write_depth_map(scene: Scene, index: int, folder: Path) -> Path:
    """What the view's neighbours confirm, as an output of the stage.

    `inverse_depth` float16 is relative to `range` (low, high), NaN where there is none: half floats are coarse away from 0.
    """
    w = np.array(scene.load("fitted", index)[..., 0]).astype(np.float64)
    there = w > 0
    low, high = (float(w[there].min()), float(w[there].max())) if there.any() else (0.0, 1.0)
    relative = np.full(w.shape, np.nan, np.float16)
    relative[there] = (w[there] - low) / max(high - low, 1e-12)
    K = scene.level(index, scene.params.levels[-1]).K + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    path = folder / f"{scene.views[index].stem}.npz"
    _write_npz(path, {"inverse_depth": relative, "range": np.array([low, high]), "K": K})
    return path


def _write_npz(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """As numpy.savez_compressed, at the fastest level: a third of the time for a tenth more bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def delivered_by(scene: Scene, index: int) -> Cloud:
    """The part of the cloud that this view sees best."""
    divisor = scene.params.levels[-1]
    level = scene.level(index, divisor)
    sources = scene.selections[index].checks
    fitted = np.array(scene.load("fitted", index))
    others = stacked([scene.load("fitted", k) for k in sources], 3)
    there, _, intrinsics = _warps(scene, index, divisor)
    earlier = np.array([k < index for k in sources], np.bool_)
    mine = owned(fitted, others, there, _intrinsics(level), intrinsics, earlier, scene.params.max_depth_error)
    rows, columns = np.nonzero(mine)
    points = back_project(level, columns.astype(float), rows.astype(float), fitted[rows, columns, 0].astype(float))
    normals = camera_normals(fitted, rows, columns, level.K) @ level.view.R
    keep = scene.region.box.contains(points) if scene.region.box is not None else np.ones(len(points), np.bool_)
    cloud = np.empty(int(keep.sum()), POINT)
    cloud["point"], cloud["normal"], cloud["colour"] = points[keep], normals[keep], level.colour()[rows, columns][keep]
    return cloud


def together(parts: list[Cloud]) -> Cloud:
    """One cloud of all, in order; empty without parts."""
    return np.concatenate([np.empty(0, POINT), *parts])


def thinned(pieces: Sequence[Cloud], most: int, seed: int) -> list[Cloud]:
    """At most `most` points of the cloud that these are the pieces of, in order, chosen evenly; in as many pieces."""
    ends = np.cumsum([0, *map(len, pieces)])
    if ends[-1] <= most:
        return list(pieces)
    chosen = np.sort(np.random.default_rng(seed).choice(int(ends[-1]), most, replace=False))
    of_pieces = np.split(chosen, np.searchsorted(chosen, ends[1:-1]))
    return [piece[own - start] for piece, own, start in zip(pieces, of_pieces, ends[:-1], strict=True)]


def write_ply(pieces: Sequence[Cloud], path: Path) -> None:
    """Of a cloud in pieces, in order. Binary little-endian PLY: x y z nx ny nz float32, red green blue uchar."""
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {sum(map(len, pieces))}"]
    header += [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")] + ["end_header\n"]
    with path.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        for piece in pieces:
            piece.tofile(file)
