"""The delivered GLB rendered at the true cameras of photos that the reconstruction never had, against those photos.

2×2 rays per pixel, averaged in linear light; the texture decoded from sRGB and sampled bilinearly, as viewers do; one brightness gain
for the whole model. Counted are the object's pixels without the lowest 1 % of its height (where it touches the ground) and without
the outermost 2 pixels of its silhouette. Where the model has no surface, a pixel counts as wrong.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open3d as o3d
from numpy.typing import NDArray

from deploy.demo.scoring import Similarity
from tests.benchmarks.fidelity.viewer import TexturedModel, load_glb, to_linear, to_srgb

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_RIM_PX = 2
_LOWEST = 0.01  # of the object's height
_MARGIN_PX = 8  # around the object's window, so that what sticks out counts against the silhouette
_SSIM_SIGMA_PX = 1.5
_ERROR_SCALE = 4.0  # of the error in pictures


@dataclass(frozen=True)
class ViewScores:
    """Means over the views kept out: PSNR in dB (sRGB), SSIM −1..1; the rest are shares 0..1, the last two of the object's pixels."""

    psnr: float
    ssim: float
    silhouette_iou: float
    back_facing: float
    missing: float


@dataclass(frozen=True)
class _View:
    """One photo and what the model and the truth show there, h×w of a window around the object."""

    name: str
    photo: Floats  # h×w×3 sRGB, 0..1
    model: Floats  # h×w×3 linear
    scored: Mask  # pixels that count
    missing: Mask  # some ray of the pixel does not meet the model
    back_facing: Mask
    silhouette_iou: float

    def rendered(self, gain: float) -> Floats:
        """The model in sRGB; where it has no surface, in each channel black or white, whichever is farther from the photo."""
        return np.where(self.missing[..., None], np.where(self.photo > 0.5, 0.0, 1.0), to_srgb(self.model * gain))


def score_views(glb: Path, similarity: Similarity, truth_folder: Path, photos: Path | None = None) -> ViewScores:
    """Scores a GLB at the photos kept out (`photos`: their folder, by default kept_out beside the truth's).

    `similarity` leads from the model's frame to the truth's; truth_folder/{mesh.ply, cameras.json} as `deploy.demo.capture` writes them.
    """
    views = list(_views(load_glb(glb), similarity, truth_folder, photos))
    gain = brightness_gain(views)
    return ViewScores(
        psnr=float(np.mean([_psnr(view, gain) for view in views])),
        ssim=float(np.mean([_ssim(view.rendered(gain), view.photo, view.scored) for view in views])),
        silhouette_iou=float(np.mean([view.silhouette_iou for view in views])),
        back_facing=float(np.mean([view.back_facing[view.scored].mean() for view in views])),
        missing=float(np.mean([view.missing[view.scored].mean() for view in views])),
    )


def write_comparisons(glb: Path, similarity: Similarity, truth_folder: Path, out: Path, photos: Path | None = None) -> list[Path]:
    """One PNG per photo kept out: photo | model | error × 4 (counted pixels only), each cropped to the object."""
    out.mkdir(parents=True, exist_ok=True)
    views = list(_views(load_glb(glb), similarity, truth_folder, photos))
    gain = brightness_gain(views)
    written = []
    for view in views:
        seen = np.where(view.missing[..., None], 0.0, to_srgb(view.model * gain))
        error = np.abs(view.rendered(gain) - view.photo) * _ERROR_SCALE * view.scored[..., None]
        row = np.round(255 * np.clip(np.hstack([view.photo, seen, error]), 0, 1)).astype(np.uint8)
        written.append(out / f"{Path(view.name).stem}.png")
        cv2.imwrite(str(written[-1]), row[..., ::-1])
    return written


def brightness_gain(views: list[_View]) -> float:
    """The one factor in linear light that brings the model's brightness to the photos': the median over all counted pixels."""
    ratios = []
    for view in views:
        both = view.scored & ~view.missing
        ratios.append(to_linear(view.photo[both]).sum(1) / np.maximum(view.model[both].sum(1), 1e-4))
    together = np.concatenate(ratios)
    return float(np.median(together)) if len(together) else 1.0


def _views(model: TexturedModel, similarity: Similarity, truth_folder: Path, photos: Path | None) -> Iterator[_View]:
    placed = replace(model, vertices=similarity(model.vertices))
    cameras = json.loads((truth_folder / "cameras.json").read_text())["images"]
    truth = o3d.io.read_triangle_mesh(str(truth_folder / "mesh.ply"))
    folder = photos or truth_folder.parent / "kept_out"
    names = sorted(path.name for path in folder.iterdir() if path.name in cameras)
    if not names:
        raise FileNotFoundError(f"no photo of {folder} has a camera in {truth_folder / 'cameras.json'}")
    true_scene, scene = _scene(np.asarray(truth.vertices), np.asarray(truth.triangles)), _scene(placed.vertices, placed.faces)
    height = np.asarray(truth.vertices)[:, 2]
    floor = float(height.min() + _LOWEST * np.ptp(height))
    for name in names:
        yield _view(name, folder / name, cameras[name], placed, scene, true_scene, np.asarray(truth.vertices), floor)


def _view(
    name: str, path: Path, camera: dict[str, Any], model: TexturedModel, scene: Any, true_scene: Any, true_vertices: Floats, floor: float
) -> _View:
    left, top, right, bottom = _window(camera, true_vertices)
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None or bgr.shape[:2] != (camera["height"], camera["width"]):
        raise ValueError(f"{path} is not the photo of its camera")
    rays = _rays(camera, (left, top, right, bottom))
    true_depth = true_scene.cast_rays(o3d.core.Tensor(rays))["t_hit"].numpy()
    answer = scene.cast_rays(o3d.core.Tensor(rays))
    hit, true_hit = np.isfinite(answer["t_hit"].numpy()), np.isfinite(true_depth)
    colours = np.zeros((*hit.shape, 3))
    colours[hit] = model.colours_at(answer["primitive_ids"].numpy()[hit], answer["primitive_uvs"].numpy()[hit])
    away = (np.einsum("yxc,yxc->yx", answer["primitive_normals"].numpy(), rays[..., 3:]) > 0) & hit
    height = rays[..., 2] + np.where(true_hit, true_depth, 0) * rays[..., 5]
    inside = _all_rays(height > floor) & _without_rim(_all_rays(true_hit))
    return _View(
        name=name,
        photo=np.asarray(bgr[top:bottom, left:right, ::-1], np.float64) / 255,
        model=_pixels(colours).mean(2),
        scored=inside,
        missing=~_all_rays(hit),
        back_facing=~_all_rays(~away),
        silhouette_iou=float((hit & true_hit).sum() / max((hit | true_hit).sum(), 1)),
    )


def _window(camera: dict[str, Any], vertices: Floats) -> tuple[int, int, int, int]:
    """left, top, right, bottom in pixels: the object's bounding rectangle and a margin, within the photo."""
    image = (vertices @ np.array(camera["R"]).T + np.array(camera["t"])) @ np.array(camera["K"]).T
    image = image[:, :2] / image[:, 2:]
    low, high = np.floor(image.min(0)).astype(int) - _MARGIN_PX, np.ceil(image.max(0)).astype(int) + _MARGIN_PX
    return max(int(low[0]), 0), max(int(low[1]), 0), min(int(high[0]), camera["width"]), min(int(high[1]), camera["height"])


def _rays(camera: dict[str, Any], window: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """2h×2w×6: origin, and direction with z = 1 in the camera, through the centres of the window's half pixels."""
    left, top, right, bottom = window
    R, t, K = (np.array(camera[key]) for key in ("R", "t", "K"))
    x = ((np.arange(2 * left, 2 * right) + 0.5) / 2 - K[0, 2]) / K[0, 0]
    y = ((np.arange(2 * top, 2 * bottom) + 0.5) / 2 - K[1, 2]) / K[1, 1]
    local = np.stack([*np.meshgrid(x, y), np.ones((len(y), len(x)))], -1)
    return np.concatenate([np.broadcast_to(-R.T @ t, local.shape), local @ R], -1).astype(np.float32)


def _pixels(rays: NDArray[Any]) -> NDArray[Any]:
    """The four rays of each pixel beside each other: 2h×2w… → h×w×4…."""
    height, width = rays.shape[0] // 2, rays.shape[1] // 2
    split = np.moveaxis(rays.reshape(height, 2, width, 2, *rays.shape[2:]), 2, 1)
    return split.reshape(height, width, 4, *rays.shape[2:])


def _all_rays(rays: Mask) -> Mask:
    return np.asarray(_pixels(rays).all(-1))


def _without_rim(silhouette: Mask) -> Mask:
    kernel = np.ones((2 * _RIM_PX + 1, 2 * _RIM_PX + 1))
    return np.asarray(cv2.erode(silhouette.astype(np.uint8), kernel, borderValue=0) > 0)


def _psnr(view: _View, gain: float) -> float:
    error = float(np.mean((view.rendered(gain)[view.scored] - view.photo[view.scored]) ** 2))
    return float(-10 * np.log10(max(error, 1e-10)))


def _ssim(first: Floats, second: Floats, where: Mask) -> float:
    """Mean SSIM (Wang et al. 2004; Gaussian window, values 0..1) over pixels, of which alone the windows take their statistics."""
    weight = where.astype(np.float64)[..., None].repeat(3, 2)

    def local_mean(values: Floats) -> Floats:
        return _blurred(values * weight) / np.maximum(_blurred(weight), 1e-12)

    mean1, mean2 = local_mean(first), local_mean(second)
    variance1, variance2 = local_mean(first**2) - mean1**2, local_mean(second**2) - mean2**2
    covariance = local_mean(first * second) - mean1 * mean2
    top = (2 * mean1 * mean2 + 0.01**2) * (2 * covariance + 0.03**2)
    bottom = (mean1**2 + mean2**2 + 0.01**2) * (variance1 + variance2 + 0.03**2)
    return float((top / bottom)[where].mean())


def _blurred(values: Floats) -> Floats:
    return np.asarray(cv2.GaussianBlur(values, (11, 11), _SSIM_SIGMA_PX, borderType=cv2.BORDER_CONSTANT))


def _scene(vertices: Floats, faces: NDArray[Any]) -> Any:
    scene = o3d.t.geometry.RaycastingScene(nthreads=2)
    scene.add_triangles(o3d.core.Tensor(vertices.astype(np.float32)), o3d.core.Tensor(faces.astype(np.uint32)))
    return scene
