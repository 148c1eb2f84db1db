"""Small captures as photographers spoil them, rendered from code: photos by name, in the order taken."""

import io
import tempfile
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import open3d as o3d
from numpy.typing import NDArray
from PIL import Image

from deploy.demo.capture import Camera, Orbit, Shooting, orbit, render
from deploy.demo.objects import rounded_animal
from deploy.demo.shading_kernels import ground_texture

Pixels = NDArray[np.uint8]  # h×w×3, RGB
_WIDTH = 480
_CELL = 0.02  # metres of the object's mesh: coarse, and rendered at once
_FOCAL_35MM = 42
_REACH = 0.35  # metres from the mirror to the ground that it shows


def encoded(photos: dict[str, Pixels]) -> dict[str, bytes]:
    """JPEG with the focal length that a camera writes."""
    return {name: _jpeg(pixels) for name, pixels in photos.items()}


def _jpeg(pixels: Pixels) -> bytes:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x010F], exif[0x0110] = "Meshwork", "Sample capture"
    exif.get_ifd(0x8769)[0xA405] = _FOCAL_35MM
    Image.fromarray(pixels).save(out, "JPEG", quality=93, subsampling=0, exif=exif)
    return out.getvalue()


def _rendered(shooting: Shooting) -> dict[str, Pixels]:
    with tempfile.TemporaryDirectory() as folder:
        render(Path(folder), rounded_animal(_CELL), shooting)
        return {path.name: np.asarray(Image.open(path)) for path in sorted((Path(folder) / "photos").iterdir())}


@cache
def walk_around(views: int = 12) -> dict[str, Pixels]:
    """A good, small capture: an object on textured ground, photographed all around."""
    return _rendered(Shooting(views=views, width=_WIDTH))


@cache
def turntable(views: int = 16) -> dict[str, Pixels]:
    """A camera on a tripod, an object that turns on a disc about the axis z, and textured ground and wall around it that do not."""
    tripod = Orbit(target=(0.0, 0.0, 0.31), elevations_deg=(30.0,), unsteadiness=0.0)
    return _rendered(Shooting(views=views, width=_WIDTH, orbit=tripod, turntable_radius=0.5, exposure_stops=0.02))


def shaken(photos: dict[str, Pixels], names: list[str], length_px: int) -> dict[str, Pixels]:
    """These photos blurred along a slanted line of odd length, as by a hand that moves."""
    line = np.zeros((length_px, length_px), np.float32)
    line[length_px // 2] = 1
    slanted = cv2.warpAffine(line, cv2.getRotationMatrix2D((length_px // 2, length_px // 2), 20, 1), line.shape)
    kernel = slanted / slanted.sum()
    return {name: np.asarray(cv2.filter2D(p, -1, kernel), np.uint8) if name in names else p for name, p in photos.items()}


def brighter(photos: dict[str, Pixels], names: list[str], stops: float) -> dict[str, Pixels]:
    """These photos with so many stops more light; what is beyond white is white."""
    gain = 2.0 ** (stops / 2.2)
    return {name: np.clip(p * gain, 0, 255).astype(np.uint8) if name in names else p for name, p in photos.items()}


def two_places() -> dict[str, Pixels]:
    """Half of the photos of one place, half of another that has nothing in common with it: mirror images match nothing."""
    photos = walk_around()
    half = len(photos) // 2
    return {name: p if i < half else np.ascontiguousarray(p[:, ::-1]) for i, (name, p) in enumerate(photos.items())}


def mirror_like(views: int = 12) -> dict[str, Pixels]:
    """The object made of polished metal: it shows its surroundings, differently from every side."""
    photos = walk_around(views)
    surface = rounded_animal(_CELL)
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(surface.vertices.astype(np.float32)), o3d.core.Tensor(surface.triangles.astype(np.uint32)))
    ground = ground_texture(2 * _WIDTH, 1.3)
    return {
        camera.name: _polished(photos[camera.name], camera, scene, surface.normals[surface.triangles], ground)
        for camera in orbit(views, _WIDTH, _WIDTH * 3 // 4)
    }


def _polished(
    photo: Pixels, camera: Camera, scene: o3d.t.geometry.RaycastingScene, normals: NDArray[np.float64], ground: NDArray[np.float32]
) -> Pixels:
    rays = _rays(camera)
    origins = np.broadcast_to(camera.centre, rays.shape)
    answer = scene.cast_rays(o3d.core.Tensor(np.concatenate([origins, rays], -1).astype(np.float32)))
    hit = np.isfinite(answer["t_hit"].numpy())
    b, c = answer["primitive_uvs"].numpy()[hit].T[..., None]
    corners = normals[answer["primitive_ids"].numpy()[hit]]
    normal = corners[:, 0] * (1 - b - c) + corners[:, 1] * b + corners[:, 2] * c
    light = np.zeros(rays.shape)
    light[hit] = _surroundings(rays[hit] - 2 * (rays[hit] * normal).sum(-1, keepdims=True) * normal, ground)
    shown = 255 * np.clip(_halved(light), 0, 1) ** (1 / 2.2)
    share = _halved(hit[..., None].astype(np.float64))
    return np.asarray(np.round(photo * (1 - share) + shown * (share > 0)).clip(0, 255), np.uint8)


def _rays(camera: Camera) -> NDArray[np.float64]:
    """Unit directions through the half pixels."""
    u = ((np.arange(2 * camera.width) + 0.5) / 2 - camera.K[0, 2]) / camera.K[0, 0]
    v = ((np.arange(2 * camera.height) + 0.5) / 2 - camera.K[1, 2]) / camera.K[1, 1]
    rays = u[None, :, None] * camera.R[0] + v[:, None, None] * camera.R[1] + camera.R[2]
    return np.asarray(rays / np.linalg.norm(rays, axis=2, keepdims=True))


def _surroundings(directions: NDArray[np.float64], ground: NDArray[np.float32]) -> NDArray[np.float64]:
    """Linear light n×3 from these directions: ground below, lamps in a dim room above."""
    reach = _REACH / np.maximum(-directions[:, 2:], 0.05)
    cells = ((directions[:, :2] * reach / 1.3 + 1) / 2 * len(ground)).clip(0, len(ground) - 1).astype(int)
    azimuth = np.arctan2(directions[:, 1], directions[:, 0])
    lamps = (np.sin(5 * azimuth) > 0.8) & (np.sin(9 * directions[:, 2]) > 0.3)
    room = np.where(lamps, 1.0, 0.25 + 0.3 * directions[:, 2])[:, None]
    return np.where(directions[:, 2:] < 0, ground[cells[:, 1], cells[:, 0]], room)


def _halved(values: NDArray[np.float64]) -> NDArray[np.float64]:
    height, width, channels = values.shape
    return np.asarray(values.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3)))
