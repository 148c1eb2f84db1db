"""Renders the sample capture: photos of a procedural object on textured ground, as a careful person would take them, and the exact truth.

Usage: python -m deploy.demo.capture OUT [--views 24] [--width 1280]

OUT/photos/view_000.jpg …   JPEG 93 with EXIF focal length
OUT/truth/mesh.ply          the object alone, world frame (metres, z up, ground at z = 0)
OUT/truth/cameras.json      {"images": {name: {"R", "t", "K", "width", "height"}}}, world → camera, OpenCV axes,
                            the first pixel's centre at (0.5, 0.5)
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open3d as o3d
from numpy.typing import NDArray
from PIL import Image

from deploy.demo.objects import Floats, Surface, rounded_animal
from deploy.demo.shading_kernels import ground_texture, shade_photo

_FOCAL_35MM = 42  # of a 36 mm wide frame: a slight telephoto, as object photographers use
_LOOK_AT = np.array([0.015, 0.0, 0.31])  # world, the middle of the object
_DISTANCE = 1.62  # metres: a pixel of a 1280 px photo is about 0.09 % of the object's diagonal
_ELEVATIONS_DEG = (22.0, 38.0)  # two rings, taken in turns
_GROUND_RADIUS = 1.3  # metres
_LIGHT = np.array([0.35, -0.45, 0.82]) / np.linalg.norm([0.35, -0.45, 0.82])


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. `R`, `t`: world → camera, OpenCV axes; `K`: pixels, first pixel's centre at (0.5, 0.5)."""

    name: str
    R: Floats
    t: Floats
    K: Floats
    width: int
    height: int

    @property
    def centre(self) -> Floats:
        """The centre of projection in world."""
        return np.asarray(-self.R.T @ self.t)

    def project(self, points: Floats) -> Floats:
        """n×3 world points to n×3 (x px, y px, depth)."""
        seen = points @ self.R.T + self.t
        image = seen @ self.K.T
        return np.column_stack([image[:, 0] / image[:, 2], image[:, 1] / image[:, 2], seen[:, 2]])


def look_at(centre: Floats, target: Floats) -> tuple[Floats, Floats]:
    """R and t (world → camera, OpenCV axes) of an upright camera at `centre` that looks at `target`; world z is up."""
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    return R, -R @ centre


def orbit(views: int, width: int, height: int, seed: int = 7) -> list[Camera]:
    """Cameras around the object on two rings in turns, with the unsteadiness of a hand."""
    rng = np.random.default_rng(seed)
    focal = _FOCAL_35MM / 36.0 * width
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    cameras = []
    for i in range(views):
        azimuth = 2 * np.pi * i / views + rng.normal(0, 0.02)
        elevation = np.radians(_ELEVATIONS_DEG[i % 2] + rng.normal(0, 0.7))
        away = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
        centre = _LOOK_AT + _DISTANCE * (1 + rng.normal(0, 0.015)) * away
        R, t = look_at(centre, _LOOK_AT + rng.normal(0, 0.012, 3))
        cameras.append(Camera(f"view_{i:03d}.jpg", R, t, K, width, height))
    return cameras


def _object_window(camera: Camera, surface: Surface) -> tuple[int, int, int, int]:
    """The object's bounding rectangle in half pixels: x0, y0, x1, y1."""
    image = camera.project(surface.vertices)[:, :2] * 2
    low = np.floor(image.min(axis=0)).astype(int) - 2
    high = np.ceil(image.max(axis=0)).astype(int) + 2
    return max(int(low[0]), 0), max(int(low[1]), 0), min(int(high[0]), 2 * camera.width), min(int(high[1]), 2 * camera.height)


def _cast(
    scene: o3d.t.geometry.RaycastingScene, camera: Camera, surface: Surface, window: tuple[int, int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distance along each ray of the window (−1: misses) and the smooth unit normal where it hits."""
    x0, y0, x1, y1 = window
    u = ((np.arange(x0, x1) + 0.5) / 2 - camera.K[0, 2]) / camera.K[0, 0]
    v = ((np.arange(y0, y1) + 0.5) / 2 - camera.K[1, 2]) / camera.K[1, 1]
    rays = np.empty((len(v), len(u), 6), np.float32)
    rays[..., :3] = camera.centre
    rays[..., 3:] = u[None, :, None] * camera.R[0] + v[:, None, None] * camera.R[1] + camera.R[2]
    answer = scene.cast_rays(o3d.core.Tensor(rays))
    hits = answer["t_hit"].numpy()
    normals = np.zeros((*hits.shape, 3), np.float32)
    hit = np.isfinite(hits)
    corners = surface.triangles[answer["primitive_ids"].numpy()[hit]]
    b, c = answer["primitive_uvs"].numpy()[hit].T[..., None]
    smooth = surface.normals.astype(np.float32)
    normals[hit] = smooth[corners[:, 0]] * (1 - b - c) + smooth[corners[:, 1]] * b + smooth[corners[:, 2]] * c
    return np.where(hit, hits, np.float32(-1)), normals


def _exif(camera: Camera) -> Image.Exif:
    """The tags that a reconstruction reads: make, model, focal length."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Meshwork", "Sample capture"
    exif[0x0112] = 1
    details = exif.get_ifd(0x8769)
    details[0x920A] = float(_FOCAL_35MM)  # FocalLength, mm
    details[0xA405] = _FOCAL_35MM  # FocalLengthIn35mmFilm
    details[0xA20E], details[0xA20F] = camera.width / 3.6, camera.width / 3.6  # focal plane resolution, pixels per cm of a 36 mm frame
    details[0xA210] = 3
    details[0xA002], details[0xA003] = camera.width, camera.height
    return exif


def write_cameras(cameras: list[Camera], path: Path) -> None:
    """cameras.json in the shape that Meshwork delivers."""
    images = {c.name: {"R": c.R.tolist(), "t": c.t.tolist(), "K": c.K.tolist(), "width": c.width, "height": c.height} for c in cameras}
    path.write_text(json.dumps({"images": images}, indent=1))


def write_mesh(surface: Surface, path: Path) -> None:
    """A binary PLY with normals."""
    mesh = o3d.geometry.TriangleMesh(o3d.utility.Vector3dVector(surface.vertices), o3d.utility.Vector3iVector(surface.triangles))
    mesh.vertex_normals = o3d.utility.Vector3dVector(surface.normals)
    o3d.io.write_triangle_mesh(str(path), mesh)


def render_capture(out: Path, views: int = 24, width: int = 1280, cell: float = 0.0055) -> None:
    """Writes photos and truth below `out`. The same arguments give the same bytes."""
    (out / "photos").mkdir(parents=True, exist_ok=True)
    (out / "truth").mkdir(exist_ok=True)
    surface = rounded_animal(cell)
    cameras = orbit(views, width, width * 3 // 4)
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(surface.vertices.astype(np.float32)), o3d.core.Tensor(surface.triangles.astype(np.uint32)))
    ground = ground_texture(width * 2, _GROUND_RADIUS)
    for camera in cameras:
        window = _object_window(camera, surface)
        hits, normals = _cast(scene, camera, surface, window)
        packed = np.vstack([camera.R, camera.centre, [camera.K[0, 0], camera.K[0, 2], camera.K[1, 2]]])
        photo = shade_photo(hits, normals, window, packed, (camera.width, camera.height), ground, _GROUND_RADIUS, _LIGHT)
        Image.fromarray(photo).save(out / "photos" / camera.name, quality=93, subsampling=0, exif=_exif(camera))
    write_mesh(surface, out / "truth" / "mesh.ply")
    write_cameras(cameras, out / "truth" / "cameras.json")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Render the sample capture and its truth.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--views", type=int, default=24)
    parser.add_argument("--width", type=int, default=1280)
    arguments = parser.parse_args()
    started = time.monotonic()
    render_capture(arguments.out, arguments.views, arguments.width)
    print(f"{arguments.views} photos in {time.monotonic() - started:.1f} s: {arguments.out}")


if __name__ == "__main__":
    main()
