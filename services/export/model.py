"""The finished model in its own frame: what the deliverables are written from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    """x_model = scale * R x_world + t. `source` says where the scale is from; `isolated` whether the model is an object alone."""

    scale: float
    R: Floats
    t: Floats
    source: str = "none"
    isolated: bool = False

    @staticmethod
    def read(path: Path) -> "Similarity":
        """similarity.json of postprocess."""
        entry = json.loads(path.read_bytes())
        R, t = np.asarray(entry["R"], np.float64), np.asarray(entry["t"], np.float64)
        return Similarity(float(entry["scale"]), R, t, str(entry["source"]), bool(entry.get("isolated", False)))

    @staticmethod
    def identity() -> "Similarity":
        """The model's frame is sfm's world."""
        return Similarity(1.0, np.eye(3), np.zeros(3))

    def apply(self, points: Floats) -> Floats:
        """World points n×3 in the model's frame."""
        moved = points @ (self.scale * self.R.T)
        moved += self.t
        return moved

    def turn(self, directions: Floats) -> Floats:
        """World directions n×3 in the model's frame."""
        return directions @ self.R.T


@dataclass(frozen=True)
class Model:
    """A textured mesh in the model's frame. Vertices are shared between faces; UV belongs to corners, origin top left."""

    vertices: Floats  # n×3
    normals: Floats  # n×3, unit
    faces: NDArray[np.int32]  # m×3, counter-clockwise seen from outside
    uv: NDArray[np.float32]  # m×3×2
    texture: NDArray[np.uint8]  # h×w×3, RGB

    @staticmethod
    def read(folder: Path, similarity: Similarity) -> "Model":
        """mesh.npz and texture.png of postprocess, brought into the model's frame."""
        bgr = cv2.imread(str(folder / "texture.png"), cv2.IMREAD_COLOR)
        if bgr is None:
            raise FileNotFoundError(folder / "texture.png")
        with np.load(folder / "mesh.npz") as mesh:
            vertices, normals = similarity.apply(mesh["vertices"]), similarity.turn(mesh["normals"])
            return Model(vertices, _unit(normals), mesh["faces"], mesh["uv"], np.ascontiguousarray(bgr[..., ::-1]))

    def relief(self) -> float:
        """Distance (rms) of the vertices from the plane that fits them best, as a share of the box's diagonal; 0 for a picture."""
        centred = self.vertices - self.vertices.mean(axis=0)
        spread = np.linalg.eigvalsh(centred.T @ centred / len(centred))
        return float(np.sqrt(max(float(spread[0]), 0.0)) / max(float(np.linalg.norm(np.ptp(self.vertices, axis=0))), 1e-12))

    def split(self) -> "SplitMesh":
        """Vertices repeated where charts meet, as GPUs want them."""
        corners = self.faces.ravel()
        _, chart_corner = self.distinct_uv()
        keys = corners.astype(np.int64) << 32 | chart_corner.ravel()
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        return SplitMesh(
            self.vertices[corners[first]].astype(np.float32),
            _unit(self.normals[corners[first]].astype(np.float32)),
            self.uv.reshape(-1, 2)[first],
            inverse.reshape(-1, 3).astype(np.uint32),
        )

    def distinct_uv(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """k×2 coordinates, each once, and the m×3 indices of the corners into them."""
        rows = np.ascontiguousarray(self.uv.reshape(-1, 2), np.float32)
        _, first, inverse = np.unique(rows.view(np.uint64).ravel(), return_index=True, return_inverse=True)  # a row is eight bytes
        return rows[first], inverse.reshape(-1, 3)

    def vertex_colours(self) -> NDArray[np.uint8]:
        """sRGB n×3: the texture at each vertex, averaged over its charts."""
        sampled = sample_texture(self.texture, self.uv.reshape(-1, 2))
        corners, count = self.faces.ravel(), len(self.vertices)
        total = np.stack([np.bincount(corners, sampled[:, i], minlength=count) for i in range(3)], axis=1)
        uses = np.bincount(corners, minlength=count)[:, None]
        return np.asarray(np.round(total / np.maximum(uses, 1)), np.uint8)


@dataclass(frozen=True)
class SplitMesh:
    """One UV per vertex."""

    positions: NDArray[np.float32]
    normals: NDArray[np.float32]
    uv: NDArray[np.float32]
    indices: NDArray[np.uint32]


def sample_texture(texture: NDArray[Any], uv: NDArray[Any]) -> NDArray[np.float32]:
    """Bilinear lookup at n×2 UV coordinates, origin top left; n×3 in the texture's units."""
    height, width = texture.shape[:2]
    position = np.clip(uv * np.array([width, height], uv.dtype) - 0.5, 0, np.array([width - 1, height - 1], uv.dtype))
    left, top = position.astype(np.int32).T
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = (position - np.floor(position)).astype(np.float32).T[..., None]
    upper = texture[top, left] * (1 - fx) + texture[top, right] * fx
    lower = texture[bottom, left] * (1 - fx) + texture[bottom, right] * fx
    return np.asarray(upper * (1 - fy) + lower * fy, np.float32)


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    fallback = np.array([0, 1, 0], vectors.dtype)
    return np.where(length > 1e-12, vectors / np.maximum(length, 1e-12), fallback).astype(vectors.dtype)
