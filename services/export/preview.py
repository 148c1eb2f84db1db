"""preview.png: four views of the model in a grid, rendered by ray casting with the delivered texture. No display, no GL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import open3d as o3d
from numpy.typing import NDArray

from services.export.model import Floats, Model, sample_texture

BACKGROUND = 245.0  # sRGB level
BACK_FACE = 190.0  # of a surface seen from behind
OVERSAMPLE = 2
FIELD_OF_VIEW_DEG = 30.0
ORBIT = ((20.0, 22.0), (110.0, 22.0), (200.0, 22.0), (290.0, 50.0))  # azimuth from +Z towards +X, elevation; degrees


@dataclass(frozen=True)
class Viewpoint:
    """A square pinhole view: world to camera, OpenCV axes; `focal` as a fraction of the side."""

    R: Floats
    t: Floats
    focal: float


def render_preview(model: Model, cameras: Mapping[str, Any], isolated: bool, side_px: int) -> bytes:
    """The PNG file. An object is shown from all around, a scene from where it was photographed."""
    views = orbit_views(model) if isolated else photographers_views(list(cameras.values()), model)
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(model.vertices.astype(np.float32), model.faces.astype(np.uint32))
    half = side_px // 2
    linear_texture = _linear(np.arange(256)).astype(np.float32)[model.texture]
    tiles = [render(scene, model, linear_texture, view, half) for view in views]
    grid = np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])
    _, data = cv2.imencode(".png", np.ascontiguousarray(grid[..., ::-1]))
    return bytes(data)


def orbit_views(model: Model) -> list[Viewpoint]:
    """Four views that hold the whole model."""
    low, high = model.vertices.min(0), model.vertices.max(0)
    middle, radius = (low + high) / 2, float(np.linalg.norm(model.vertices - (low + high) / 2, axis=1).max())
    distance = 1.03 * radius / np.sin(np.radians(FIELD_OF_VIEW_DEG / 2))
    focal = 0.5 / np.tan(np.radians(FIELD_OF_VIEW_DEG / 2))
    return [look_at(middle + distance * _direction(*angles), middle, focal) for angles in ORBIT]


def photographers_views(cameras: Sequence[Mapping[str, Any]], model: Model) -> list[Viewpoint]:
    """Four photos' own poses, spread over the capture, widened to a square that holds the whole frame."""
    chosen = [cameras[round(i * (len(cameras) - 1) / 3)] for i in range(4)] if cameras else []
    if not chosen:
        return orbit_views(model)
    return [
        Viewpoint(np.asarray(camera["R"]), np.asarray(camera["t"]), camera["K"][0][0] / max(camera["width"], camera["height"]))
        for camera in chosen
    ]


def look_at(eye: Floats, target: Floats, focal: float) -> Viewpoint:
    """A view from `eye` to `target`, +Y up."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    return Viewpoint(R, -R @ eye, focal)


def render(scene: Any, model: Model, linear_texture: NDArray[np.float32], view: Viewpoint, side_px: int) -> NDArray[np.uint8]:
    """One square tile, RGB, several rays per pixel averaged in linear light. Rays are cast where the model can be, alone."""
    window = _window(model, view, side_px)
    rows, columns = (np.arange(start * OVERSAMPLE, stop * OVERSAMPLE, dtype=np.float32) for start, stop in window)
    axes = [((axis + 0.5) / (side_px * OVERSAMPLE) - 0.5) / view.focal for axis in (columns, rows)]
    local = np.stack([*np.meshgrid(*axes), np.ones((len(rows), len(columns)), np.float32)], -1)
    rays = np.empty((*local.shape[:2], 6), np.float32)
    rays[..., :3] = -view.R.T @ view.t
    rays[..., 3:] = local @ view.R.astype(np.float32)
    hits = scene.cast_rays(o3d.core.Tensor(rays))
    hit = np.isfinite(hits["t_hit"].numpy())
    colours = np.full(local.shape, _linear(BACKGROUND), np.float32)
    colours[hit] = _surface_colours(model, linear_texture, hits["primitive_ids"].numpy()[hit], hits["primitive_uvs"].numpy()[hit])
    away = np.einsum("hwi,hwi->hw", hits["primitive_normals"].numpy(), rays[..., 3:]) > 0
    colours[hit & away] = _linear(BACK_FACE)
    averaged = colours.reshape(len(rows) // OVERSAMPLE, OVERSAMPLE, len(columns) // OVERSAMPLE, OVERSAMPLE, 3).mean((1, 3))
    tile = np.full((side_px, side_px, 3), round(BACKGROUND), np.uint8)
    tile[slice(*window[0]), slice(*window[1])] = np.round(255 * averaged ** (1 / 2.2))
    return tile


def _linear(level: Any) -> Any:
    """Linear light of sRGB levels, by the plain power that `render` takes back."""
    return (level / 255.0) ** 2.2


def _window(model: Model, view: Viewpoint, side_px: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last row and column of the pixels that can show the model."""
    seen = model.vertices @ view.R.T + view.t
    if seen[:, 2].min() <= 0:
        return (0, side_px), (0, side_px)
    image = (seen[:, :2] / seen[:, 2:] * view.focal + 0.5) * side_px
    low, high = np.floor(image.min(0)).astype(int), np.ceil(image.max(0)).astype(int)
    (left, top), (right, bottom) = np.clip(low - 1, 0, side_px - 1), np.clip(high + 1, 1, side_px)
    return (int(top), int(bottom)), (int(left), int(right))


def _surface_colours(
    model: Model, linear_texture: NDArray[np.float32], face: NDArray[np.uint32], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    second, third = weights[:, :1], weights[:, 1:]
    corners = model.uv[face]
    uv = corners[:, 0] * (1 - second - third) + corners[:, 1] * second + corners[:, 2] * third
    return sample_texture(linear_texture, uv)


def _direction(azimuth_deg: float, elevation_deg: float) -> Floats:
    azimuth, elevation = np.radians(azimuth_deg), np.radians(elevation_deg)
    return np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
