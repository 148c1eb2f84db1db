"""Renders captures: photos of a procedural object on textured ground, as a careful person would take them, and the exact truth.

Usage: python -m deploy.demo.capture OUT [--views 24] [--width 1280]

OUT/photos/view_000.jpg …     JPEG 93 with EXIF focal length; their exposure varies a little, as a camera's does
OUT/truth/mesh.ply            the object alone, world frame (metres, z up, ground at z = 0)
OUT/truth/cameras.json        {"images": {name: {"R", "t", "K", "width", "height"}}}, world → camera, OpenCV axes, the first
                              pixel's centre at (0.5, 0.5); views kept out are among them, marked "kept_out": true
OUT/kept_out/*.jpg            photos for judging alone, from between the others, at the exact mean exposure
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import open3d as o3d
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from deploy.demo.objects import Floats, Surface, rounded_animal
from deploy.demo.shading_kernels import ground_texture, photo_settings, shade_photo

_FOCAL_35MM = 42  # of a 36 mm wide frame: a slight telephoto, as object photographers use
_LIGHT = np.array([0.35, -0.45, 0.82]) / np.linalg.norm([0.35, -0.45, 0.82])
_BLUR_PX = 3.0  # standard deviation of a spoiled photo at 1280 px


@dataclass(frozen=True)
class Orbit:
    """Where photos are taken from: rings around a target, in turns, or a part of them. Metres, degrees."""

    target: tuple[float, float, float] = (0.015, 0.0, 0.31)  # the middle of the animal
    distance: float = 1.62  # a pixel of a 1280 px photo is about 0.09 % of the animal's diagonal
    elevations_deg: tuple[float, ...] = (22.0, 38.0)
    span_deg: float = 360.0
    start_deg: float = 0.0
    unsteadiness: float = 1.0  # of the hand; 0: a tripod


@dataclass(frozen=True)
class Look:
    """The object's surface. `contrast` of its texture, 1: rich; `gloss`: strength of highlights; `texture_scale`: above 1 finer."""

    contrast: float = 1.0
    gloss: float = 0.0
    texture_scale: float = 1.0


@dataclass(frozen=True)
class Shooting:
    """How an object is photographed. The defaults are the standard capture."""

    views: int = 24
    kept_out: int = 0
    width: int = 1280
    orbit: Orbit = field(default_factory=Orbit)
    look: Look = field(default_factory=Look)
    ground_radius: float = 1.3  # metres; 0: none
    turntable_radius: float = np.inf  # metres: beyond it the world stands still while the object turns
    exposure_stops: float = 0.08  # standard deviation over the photos
    blurred: float = 0.0  # share of the photos
    exif: bool = True
    seed: int = 7

    @property
    def height(self) -> int:
        """Of a photo, pixels: 4:3."""
        return self.width * 3 // 4


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


def orbit(views: int, width: int, height: int, seed: int = 7, path: Orbit = Orbit()) -> list[Camera]:
    """Cameras on the rings of `path` in turns, with the unsteadiness of a hand."""
    rng = np.random.default_rng(seed)
    rings = path.elevations_deg
    return [_camera(f"view_{i:03d}.jpg", i / views, rings[i % len(rings)], width, height, path, rng) for i in range(views)]


def between(count: int, views: int, width: int, height: int, seed: int = 7, path: Orbit = Orbit()) -> list[Camera]:
    """`count` cameras midway between neighbours of an orbit of `views`, at the mean elevation: the views that are kept out."""
    rng = np.random.default_rng(seed + 1000)
    middle = float(np.mean(path.elevations_deg))
    turns = [(int((i + 0.5) * views / count) + 0.5) / views for i in range(count)]
    return [_camera(f"kept_{i:03d}.jpg", turn, middle, width, height, path, rng) for i, turn in enumerate(turns)]


def _camera(name: str, turn: float, elevation_deg: float, width: int, height: int, path: Orbit, rng: np.random.Generator) -> Camera:
    """A hand-held camera at a share of the way around."""
    focal = _FOCAL_35MM / 36.0 * width
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    target = np.array(path.target)
    hand = path.unsteadiness
    azimuth = np.radians(path.start_deg + path.span_deg * turn) + rng.normal(0, 0.02) * hand
    elevation = np.radians(elevation_deg + rng.normal(0, 0.7) * hand)
    away = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    centre = target + path.distance * (1 + rng.normal(0, 0.015) * hand) * away
    R, t = look_at(centre, target + hand * rng.normal(0, 0.012, 3))
    return Camera(name, R, t, K, width, height)


class _Studio:
    """An object and its surroundings, ready to be photographed."""

    def __init__(self, surface: Surface, surroundings: Surface | None, shooting: Shooting) -> None:
        everything = surface if surroundings is None else surface.joined(surroundings)
        self._visible = everything.vertices
        self._mesh = (everything.triangles, everything.normals.astype(np.float32), len(surface.triangles))
        self._scene = o3d.t.geometry.RaycastingScene()
        self._scene.add_triangles(everything.vertices.astype(np.float32), everything.triangles.astype(np.uint32))
        self._ground = ground_texture(shooting.width * 2, max(shooting.ground_radius, 0.1))
        self._shooting = shooting

    def photo(self, camera: Camera, gain: float = 1.0) -> NDArray[np.uint8]:
        """sRGB (height, width, 3)."""
        shooting = self._shooting
        window = self._window(camera)
        answer = self._scene.cast_rays(o3d.core.Tensor(_window_rays(camera, window)))
        spin = np.arctan2(camera.centre[1], camera.centre[0]) if np.isfinite(shooting.turntable_radius) else 0.0
        look = shooting.look
        radii = (shooting.ground_radius, shooting.turntable_radius)
        settings = photo_settings(radii[0], look.contrast, look.gloss, look.texture_scale, gain, radii[1], -spin)
        light = _LIGHT @ np.array([[np.cos(spin), np.sin(spin), 0], [-np.sin(spin), np.cos(spin), 0], [0, 0, 1.0]])
        found = (answer["t_hit"].numpy(), answer["primitive_ids"].numpy(), answer["primitive_uvs"].numpy())
        packed = np.vstack([camera.R, camera.centre, [camera.K[0, 0], camera.K[0, 2], camera.K[1, 2]]])
        size = (camera.width, camera.height)
        return np.asarray(shade_photo(found, window, self._mesh, packed, size, self._ground, settings, light))

    def _window(self, camera: Camera) -> tuple[int, int, int, int]:
        """The rectangle that can show a surface, in half pixels: x0, y0, x1, y1."""
        whole = (0, 0, 2 * camera.width, 2 * camera.height)
        image = camera.project(self._visible)
        if image[:, 2].min() <= 0:
            return whole
        low, high = np.floor(image[:, :2].min(axis=0) * 2) - 2, np.ceil(image[:, :2].max(axis=0) * 2) + 2
        return max(int(low[0]), 0), max(int(low[1]), 0), min(int(high[0]), whole[2]), min(int(high[1]), whole[3])


def _window_rays(camera: Camera, window: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """h×w×6 rays through the half pixels of the window: centre, and a direction with z = 1 in the camera."""
    x0, y0, x1, y1 = window
    u = ((np.arange(x0, x1) + 0.5) / 2 - camera.K[0, 2]) / camera.K[0, 0]
    v = ((np.arange(y0, y1) + 0.5) / 2 - camera.K[1, 2]) / camera.K[1, 1]
    rays = np.empty((len(v), len(u), 6), np.float32)
    rays[..., :3] = camera.centre
    rows, columns = (v[:, None] * camera.R[1] + camera.R[2]).astype(np.float32), (u[:, None] * camera.R[0]).astype(np.float32)
    np.add(rows[:, None], columns[None], out=rays[..., 3:])
    return rays


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


def write_cameras(cameras: list[Camera], path: Path, kept_out: list[Camera] | None = None) -> None:
    """cameras.json in the shape that Meshwork delivers; views kept out are marked."""
    images = {camera.name: _camera_json(camera) for camera in cameras}
    images |= {camera.name: {**_camera_json(camera), "kept_out": True} for camera in kept_out or []}
    path.write_text(json.dumps({"images": images}, indent=1))


def _camera_json(camera: Camera) -> dict[str, object]:
    lists = {"R": camera.R.tolist(), "t": camera.t.tolist(), "K": camera.K.tolist()}
    return {**lists, "width": camera.width, "height": camera.height}


def write_mesh(surface: Surface, path: Path) -> None:
    """A binary PLY with normals."""
    mesh = o3d.geometry.TriangleMesh(o3d.utility.Vector3dVector(surface.vertices), o3d.utility.Vector3iVector(surface.triangles))
    mesh.vertex_normals = o3d.utility.Vector3dVector(surface.normals)
    o3d.io.write_triangle_mesh(str(path), mesh)


def render(out: Path, surface: Surface, shooting: Shooting, surroundings: Surface | None = None) -> None:
    """Writes photos and truth below `out`. The same arguments give the same bytes."""
    (out / "photos").mkdir(parents=True, exist_ok=True)
    (out / "truth").mkdir(exist_ok=True)
    (out / "kept_out").mkdir(exist_ok=True)
    size = (shooting.width, shooting.height, shooting.seed, shooting.orbit)
    cameras = orbit(shooting.views, *size)
    kept_out = between(shooting.kept_out, shooting.views, *size)
    studio = _Studio(surface, surroundings, shooting)
    rng = np.random.default_rng(shooting.seed + 2000)
    blurred = rng.choice(shooting.views, round(shooting.blurred * shooting.views), replace=False)
    for i, camera in enumerate(cameras):
        photo = Image.fromarray(studio.photo(camera, 2.0 ** rng.normal(0, shooting.exposure_stops)))
        if i in blurred:
            photo = photo.filter(ImageFilter.GaussianBlur(_BLUR_PX * shooting.width / 1280))
        _save(photo, out / "photos" / camera.name, camera, shooting)
    for camera in kept_out:
        _save(Image.fromarray(studio.photo(camera)), out / "kept_out" / camera.name, camera, shooting)
    write_mesh(surface, out / "truth" / "mesh.ply")
    write_cameras(cameras, out / "truth" / "cameras.json", kept_out)


def _save(photo: Image.Image, path: Path, camera: Camera, shooting: Shooting) -> None:
    photo.save(path, quality=93, subsampling=0, exif=_exif(camera) if shooting.exif else Image.Exif())


def render_capture(out: Path, views: int = 24, width: int = 1280, cell: float = 0.0055) -> None:
    """The sample capture: the rounded animal, meshed with cells of `cell` metres."""
    render(out, rounded_animal(cell), Shooting(views=views, width=width))


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
