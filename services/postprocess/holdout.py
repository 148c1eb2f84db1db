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
MIN_PIXELS = 500  # of the model in a photo, so that a mean over them says something
RIM_PX = 2  # outermost pixels of the silhouette: half model, half background


def held_out_psnr(mesh: Mesh, normals: Floats, cameras: Sequence[Camera], every: int, best: int, seed: int) -> float | None:
    """Mean PSNR (dB, sRGB) over the photos kept out, one brightness gain each; None when too few photos are left to try it."""
    held = list(range(every // 2, len(cameras), every)) if every else []
    kept = [camera.scaled_to(RENDER_PX) for i, camera in enumerate(cameras) if i not in set(held)]
    if not held or len(kept) < 3:
        return None
    caster = RayCaster(mesh)
    targets = [_visible_surface(mesh, normals, cameras[i].scaled_to(RENDER_PX), caster) for i in held]
    points, facing, photos = (np.concatenate([target[k] for target in targets]) for k in range(3))
    if len(points) == 0:
        return None
    # One pass over the photos for all targets: each photo's depth buffer is cast once.
    spacing = float(np.median([_pixel_size(camera, points) for camera in kept]))
    origin = points.mean(0)
    near, facing = (points - origin).astype(np.float32), facing.astype(np.float32)
    found = collect_views(near, facing, origin, kept, caster, best + SPARE_VIEWS, spacing)
    gains = solve_gains(found.scores, found.views, found.colours, len(kept), linear_table(), seed)
    colours, seen = found.blended(gains, best)
    colours[~seen] = colours[seen].mean(0) if seen.any() else 0.2
    ends = np.cumsum([len(target[0]) for target in targets])[:-1]
    pairs = zip(np.split(colours, ends), np.split(photos, ends), strict=True)
    return float(np.mean([compare(rendered, photo) for rendered, photo in pairs if len(photo)]))


def _visible_surface(mesh: Mesh, normals: Floats, camera: Camera, caster: RayCaster) -> tuple[Floats, Floats, Floats]:
    """Points n×3 that the pixels of a photo show, their normals, and the photo's linear colours; none when they are too few to compare."""
    depth, face, weights = caster.hits(camera)
    inside = cv2.erode((face >= 0).astype(np.uint8), np.ones((2 * RIM_PX + 1, 2 * RIM_PX + 1)), borderValue=0) > 0
    if inside.sum() < MIN_PIXELS:
        inside[:] = False
    corners = mesh.faces[face[inside]]
    second, third = weights[inside].T.astype(np.float64)
    facing = sum(normals[corners[:, k]] * w[:, None] for k, w in enumerate((1 - second - third, second, third)))
    ys, xs = np.nonzero(inside)
    return _unproject(camera, xs, ys, depth[inside]), np.asarray(facing), to_linear(camera.photo()[inside] / 255.0)


def compare(rendered: NDArray[np.floating], photo: Floats) -> float:
    """PSNR in sRGB of two sets of linear colours n×3, after the gain that brings their brightness together."""
    gain = float(np.median(photo.sum(1) / np.maximum(rendered.sum(1), 1e-4)))
    error = float(np.mean((to_srgb(rendered * gain) - to_srgb(photo)) ** 2))
    return float(-10 * np.log10(max(error, 1e-10)))


def _unproject(camera: Camera, xs: NDArray[np.int64], ys: NDArray[np.int64], depth: NDArray[np.float32]) -> Floats:
    local = np.stack([(xs + 0.5 - camera.K[0, 2]) / camera.K[0, 0], (ys + 0.5 - camera.K[1, 2]) / camera.K[1, 1], np.ones(len(xs))], 1)
    return (local * depth[:, None].astype(np.float64)) @ camera.R + camera.centre


def _pixel_size(camera: Camera, points: Floats) -> float:
    """World units that a pixel covers where the points are."""
    return float(np.median(points @ camera.R[2] + camera.t[2])) / float(camera.K[0, 0])
