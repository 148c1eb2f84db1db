"""A GLB as a viewer sees it: triangles in the model's frame, each with its texture, sampled bilinearly in linear light."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def to_linear(srgb: NDArray[Any]) -> Floats:
    """Linear 0..1 from sRGB 0..1 (IEC 61966-2-1)."""
    value = np.asarray(srgb, np.float64)
    return np.where(value <= 0.04045, value / 12.92, ((np.maximum(value, 0) + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: NDArray[Any]) -> Floats:
    """sRGB 0..1 from linear, clipped to 0..1."""
    value = np.clip(np.asarray(linear, np.float64), 0, 1)
    return np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)


_LINEAR = to_linear(np.arange(256) / 255)


@dataclass(frozen=True)
class TexturedModel:
    """`vertices` n×3 (model frame), `faces` m×3, `uv` m×3×2 (origin top left), `part` m: index into `textures` (h×w×3, sRGB bytes)."""

    vertices: Floats
    faces: NDArray[np.int64]
    uv: Floats
    part: NDArray[np.int64]
    textures: tuple[NDArray[np.uint8], ...]

    def colours_at(self, faces: NDArray[Any], weights: NDArray[Any]) -> Floats:
        """Linear colours n×3 at points given by their face and the weights of its corners 1 and 2 (n×2)."""
        corners, faces = self.uv[faces.astype(np.int64)], faces.astype(np.int64)
        second, third = np.asarray(weights, np.float64).T[..., None]
        uv = corners[:, 0] * (1 - second - third) + corners[:, 1] * second + corners[:, 2] * third
        colours = np.zeros((len(faces), 3))
        for index, texture in enumerate(self.textures):
            here = self.part[faces] == index
            colours[here] = sample_bilinear(texture, uv[here])
        return colours


def sample_bilinear(texture: NDArray[np.uint8], uv: Floats) -> Floats:
    """Linear colours n×3 of an sRGB texture: decoded first, then interpolated, as graphics hardware does; clamped to the edge."""
    height, width = texture.shape[:2]
    x, y = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    x0, x1 = (np.clip(left + k, 0, width - 1) for k in (0, 1))
    y0, y1 = (np.clip(top + k, 0, height - 1) for k in (0, 1))
    upper = _LINEAR[texture[y0, x0]] * (1 - fx) + _LINEAR[texture[y0, x1]] * fx
    lower = _LINEAR[texture[y1, x0]] * (1 - fx) + _LINEAR[texture[y1, x1]] * fx
    return np.asarray(upper * (1 - fy) + lower * fy)


def load_glb(path: Path) -> TexturedModel:
    """All meshes of a GLB with their nodes' transforms; a mesh without a texture has its base colour, or else is white."""
    meshes: list[Any] = trimesh.load_scene(str(path), process=False).dump()
    vertices, faces, uv, part, textures = [], [], [], [], []
    start = 0
    for index, mesh in enumerate(meshes):
        vertices.append(np.asarray(mesh.vertices, np.float64))
        faces.append(np.asarray(mesh.faces, np.int64) + start)
        corners, texture = _appearance(mesh)
        uv.append(corners)
        part.append(np.full(len(mesh.faces), index))
        textures.append(texture)
        start += len(mesh.vertices)
    return TexturedModel(np.concatenate(vertices), np.concatenate(faces), np.concatenate(uv), np.concatenate(part), tuple(textures))


def _appearance(mesh: Any) -> tuple[Floats, NDArray[np.uint8]]:
    """UV of every corner (origin top left: trimesh turns v round) and the texture."""
    material = getattr(mesh.visual, "material", None)
    image, uv = getattr(material, "baseColorTexture", None), getattr(mesh.visual, "uv", None)
    if image is None or uv is None:
        colour = getattr(material, "baseColorFactor", None)
        flat = np.asarray([255, 255, 255] if colour is None else colour, np.uint8)[:3]
        return np.zeros((len(mesh.faces), 3, 2)), flat.reshape(1, 1, 3)
    turned = np.column_stack([np.asarray(uv)[:, 0], 1 - np.asarray(uv)[:, 1]])
    return turned[np.asarray(mesh.faces)], np.asarray(image.convert("RGB"))
