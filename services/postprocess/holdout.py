"""How well the model predicts photos that it has not seen: every n-th photo is kept out, rendered from the others, and compared.

A pass of its own at low resolution: each pixel's surface point takes its colour from the remaining photos just as a texel would.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from services.postprocess.capture import Camera, Floats
from services.postprocess.colour import linear_table, to_linear, to_srgb
from services.postprocess.exposure import solve_gains
from services.postprocess.surface import Mesh
from services.postprocess.texturing import SPARE_VIEWS, collect_views
from services.postprocess.visibility import RayCaster

RENDER_PX = 640
RIM_PX = 2  # outermost pixels of the silhouette: half model, half background


def held_out_psnr(mesh: Mesh, normals: Floats, cameras: Sequence[Camera], every: int, best: int, seed: int) -> float | None:
    """Mean PSNR (dB, sRGB) over the photos kept out, one brightness gain each; None when too few photos are left to try it."""
    held = list(range(every // 2, len(cameras), every)) if every else []
    kept = [camera.scaled_to(RENDER_PX) for i, camera in enumerate(cameras) if i not in set(held)]
    if not held or len(kept) < 3:
        return None
    caster = RayCaster(mesh)
    values = [_psnr(mesh, normals, cameras[i].scaled_to(RENDER_PX), kept, caster, best, seed) for i in held]
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None


def _psnr(mesh: Mesh, normals: Floats, camera: Camera, others: Sequence[Camera], caster: RayCaster, best: int, seed: int) -> float | None:
    depth, face, weights = caster.hits(camera)
    inside = cv2.erode((face >= 0).astype(np.uint8), np.ones((2 * RIM_PX + 1, 2 * RIM_PX + 1)), borderValue=0) > 0
    if inside.sum() < 500:
        return None
    corners = mesh.faces[face[inside]]
    second, third = weights[inside].T.astype(np.float64)
    facing = sum(normals[corners[:, k]] * w[:, None] for k, w in enumerate((1 - second - third, second, third)))
    ys, xs = np.nonzero(inside)
    points = _unproject(camera, xs, ys, depth[inside])
    found = collect_views(points, np.asarray(facing), others, caster, best + SPARE_VIEWS, _pixel_size(camera, depth[inside]))
    gains = solve_gains(found.scores, found.views, found.colours, len(others), linear_table(), seed)
    colours, seen = found.blended(gains, best)
    colours[~seen] = colours[seen].mean(0) if seen.any() else 0.2
    return compare(colours, to_linear(camera.photo()[inside] / 255.0))


def compare(rendered: NDArray[np.floating], photo: Floats) -> float:
    """PSNR in sRGB of two sets of linear colours n×3, after the gain that brings their brightness together."""
    gain = float(np.median(photo.sum(1) / np.maximum(rendered.sum(1), 1e-4)))
    error = float(np.mean((to_srgb(rendered * gain) - to_srgb(photo)) ** 2))
    return float(-10 * np.log10(max(error, 1e-10)))


def _unproject(camera: Camera, xs: NDArray[np.int64], ys: NDArray[np.int64], depth: NDArray[np.float32]) -> Floats:
    local = np.stack([(xs + 0.5 - camera.K[0, 2]) / camera.K[0, 0], (ys + 0.5 - camera.K[1, 2]) / camera.K[1, 1], np.ones(len(xs))], 1)
    return (local * depth[:, None].astype(np.float64)) @ camera.R + camera.centre


def _pixel_size(camera: Camera, depth: NDArray[np.float32]) -> float:
    return float(np.median(depth)) / float(camera.K[0, 0])
