"""A made capture: a bumpy body on four legs (or a wall) on a textured ground, rendered with known cameras in an arbitrary world frame.

Writes what sfm and mvs would have written, so that the last two stages can be tried without them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open3d as o3d

from services.postprocess.capture import Cloud, write_cloud

FloatArray = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Truth:
    """`world_from_object`: similarity (s, R, t) of the made world; object frame: Z up, ground at z = 0, size about 1."""

    scale: float
    R: FloatArray
    t: FloatArray
    meshes: list[Any]
    up_world: FloatArray

    def to_object(self, points: FloatArray) -> FloatArray:
        """World points n×3 in the object's frame."""
        return (points - self.t) @ self.R / self.scale


def bumpy_body() -> list[Any]:
    """Closed meshes whose union is the object: a bumpy ellipsoid on four legs that stand on z = 0."""
    body = o3d.geometry.TriangleMesh.create_sphere(1.0, 80)
    directions = np.asarray(body.vertices)
    bumps = 1 + 0.05 * np.sin(7 * directions[:, 0]) * np.sin(6 * directions[:, 1] + 1) * np.cos(5 * directions[:, 2])
    body.vertices = o3d.utility.Vector3dVector(directions * bumps[:, None] * (0.5, 0.3, 0.25) + (0, 0, 0.48))
    legs = []
    for x, y in ((0.28, 0.14), (-0.28, 0.14), (0.28, -0.14), (-0.28, -0.14)):
        leg = o3d.geometry.TriangleMesh.create_cylinder(0.075, 0.5, 40, 20)
        legs.append(leg.translate((x, y, 0.25)))
    return [body, *legs]


def plate(size: float) -> Any:
    """A square of ground at z = 0."""
    return o3d.geometry.TriangleMesh.create_box(size, size, 0.01).translate((-size / 2, -size / 2, -0.01))


def wall() -> list[Any]:
    """A façade: a wall with reliefs, 1.6 wide, facing -Y."""
    grid_x, grid_z = np.meshgrid(np.linspace(-0.8, 0.8, 120), np.linspace(0, 1.0, 80))
    depth = 0.05 * np.sign(np.sin(9 * grid_x)) * np.sign(np.sin(8 * grid_z)) + 0.02 * np.sin(20 * grid_x)
    vertices = np.stack([grid_x, depth, grid_z], -1).reshape(-1, 3)
    index = np.arange(120 * 80).reshape(80, 120)
    quads = np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], -1).reshape(-1, 4)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return [o3d.geometry.TriangleMesh(o3d.utility.Vector3dVector(vertices), o3d.utility.Vector3iVector(faces))]


def albedo(points: FloatArray, ground: np.ndarray[Any, Any]) -> FloatArray:
    """Linear colours 0..1, n×3, of points in the object's frame."""
    phases = np.random.default_rng(5).uniform(0, 6.28, (3, 8))
    waves = np.random.default_rng(6).normal(size=(8, 3)) * 22
    tone = np.stack([np.sin(points @ waves.T + phase).sum(1) for phase in phases], 1) / 4
    colour = np.where(ground[:, None], (0.35, 0.30, 0.22), (0.45, 0.25, 0.16)) * np.exp(0.45 * tone)
    return np.clip(colour, 0.01, 0.98)


def look_at(centre: FloatArray, target: FloatArray) -> FloatArray:
    """World-to-camera rotation, OpenCV axes (x right, y down, z forward), Z up in the object's frame."""
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, (0, 0, 1.0))
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def orbit_centres(views: int) -> FloatArray:
    """Camera centres around the object, alternately low and high."""
    angle = np.arange(views) * 2 * np.pi / views
    elevation = np.where(np.arange(views) % 2, 0.65, 0.25)
    return 2.2 * np.stack([np.cos(angle) * np.cos(elevation), np.sin(angle) * np.cos(elevation), np.sin(elevation)], 1) + (0, 0, 0.35)


def write_capture(
    folder: Path, views: int = 12, size: tuple[int, int] = (480, 360), facade: bool = False, seed: int = 0, exposure_stop: float = 0.0
) -> Truth:
    """Fills `folder`/inputs/{sfm,mvs} and request.json."""
    rng = np.random.default_rng(seed)
    meshes = wall() if facade else bumpy_body()
    centres = np.stack([np.linspace(-0.7, 0.7, views), np.full(views, -1.7), np.full(views, 0.5)], 1) if facade else orbit_centres(views)
    target = (0, 0, 0.5) if facade else (0, 0, 0.35)
    truth = _truth(meshes, rng)
    sfm = folder / "inputs" / "sfm"
    (sfm / "images").mkdir(parents=True)
    cameras, clouds = {}, []
    scene, ground_ids = _scene(meshes, None if facade else plate(5.0))
    K = np.array([[1.15 * size[0], 0, size[0] / 2 + 1.5], [0, 1.15 * size[0], size[1] / 2 - 2], [0, 0, 1]])
    for i, centre in enumerate(centres):
        R = look_at(centre, np.asarray(target, float) + (centre * (1, 0, 0) if facade else 0))
        image, cloud = _render(scene, ground_ids, K, R, centre, size, rng)
        gain = 2 ** (exposure_stop * rng.normal())
        name = f"photo_{i:02d}.jpg"
        cv2.imwrite(str(sfm / "images" / f"photo_{i:02d}.png"), _encode(image * gain)[..., ::-1])
        cameras[name] = _camera(truth, K, R, centre, size, f"images/photo_{i:02d}.png")
        clouds.append(cloud)
    (sfm / "cameras.json").write_text(json.dumps({"images": cameras}))
    _write_cloud(folder, truth, clouds)
    _write_request(folder, list(cameras))
    return truth


def _truth(meshes: list[Any], rng: np.random.Generator) -> Truth:
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    return Truth(3.7, rotation, np.array([4.0, -2.0, 7.0]), meshes, rotation @ (0, 0, 1.0))


def _scene(meshes: list[Any], ground: Any | None) -> tuple[Any, int]:
    scene = o3d.t.geometry.RaycastingScene()
    for mesh in meshes:
        scene.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(mesh))
    ground_id = scene.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(ground)) if ground is not None else -1
    return scene, int(ground_id)


def _render(
    scene: Any, ground_id: int, K: FloatArray, R: FloatArray, centre: FloatArray, size: tuple[int, int], rng: np.random.Generator
) -> tuple[FloatArray, tuple[FloatArray, FloatArray, FloatArray]]:
    """A linear image from 2×2 rays per pixel, and the noisy points that a quarter of its pixels see (object frame)."""
    width, height = size[0] * 2, size[1] * 2
    u, v = np.meshgrid((np.arange(width) + 0.5) / 2, (np.arange(height) + 0.5) / 2)
    directions = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1).reshape(-1, 3) @ R
    rays = np.hstack([np.broadcast_to(centre, directions.shape), directions]).astype(np.float32)
    hits = scene.cast_rays(o3d.core.Tensor(rays))
    depth, normals = hits["t_hit"].numpy().astype(float), hits["primitive_normals"].numpy().astype(float)
    seen, ground = np.isfinite(depth), hits["geometry_ids"].numpy() == ground_id
    points = centre + directions * np.where(seen, depth, 0)[:, None]
    colours = np.where(seen[:, None], albedo(points, ground), (0.6, 0.7, 0.8))
    image = colours.reshape(size[1], 2, size[0], 2, 3).mean((1, 3))
    picked = seen & (rng.random(len(seen)) < 0.12) & (np.linalg.norm(points[:, :2], axis=1) < 0.95)
    noise = rng.normal(0, 0.0008, picked.sum())[:, None]
    facing = normals[picked] * -np.sign((normals[picked] * directions[picked]).sum(1))[:, None]
    return image, (points[picked] + directions[picked] * noise, facing, colours[picked])


def _encode(linear: FloatArray) -> np.ndarray[Any, Any]:
    linear = np.clip(linear, 0, 1)
    return np.round(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)).astype(np.uint8)


def _camera(truth: Truth, K: FloatArray, R: FloatArray, centre: FloatArray, size: tuple[int, int], file: str) -> dict[str, Any]:
    R_world = R @ truth.R.T
    centre_world = truth.scale * truth.R @ centre + truth.t
    distorted = {"model": "PINHOLE", "params": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]], "width": size[0], "height": size[1]}
    pose = {"R": R_world.tolist(), "t": (-R_world @ centre_world).tolist(), "K": K.tolist()}
    return {"file": file, "mask": None, **pose, "width": size[0], "height": size[1], "distorted": distorted}


def _write_cloud(folder: Path, truth: Truth, clouds: list[tuple[FloatArray, FloatArray, FloatArray]]) -> None:
    points, normals, colours = (np.concatenate(part) for part in zip(*clouds, strict=True))
    (folder / "inputs" / "mvs").mkdir(parents=True)
    cloud = Cloud(truth.scale * points @ truth.R.T + truth.t, normals @ truth.R.T, _encode(colours))
    write_cloud(folder / "inputs" / "mvs" / "pointcloud.ply", cloud)


def _write_request(folder: Path, names: list[str]) -> None:
    request = {
        "job_id": "made",
        "created_at": "2025-01-01T00:00:00Z",
        "pipeline": "photogrammetry",
        "preset": "balanced",
        "images": [{"name": name, "url": f"http://example.test/{name}"} for name in names],
        "outputs": ["model.glb", "model_obj.zip", "mesh.ply", "pointcloud.ply", "preview.png", "cameras.json", "report.json"],
    }
    (folder / "request.json").write_text(json.dumps(request))
