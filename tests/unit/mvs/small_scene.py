"""A scene with exact depth: a textured sphere on a textured ground, small photos, cameras on an orbit; as sfm would hand it over."""

import json
import zlib  # noqa: F401  before pycolmap: it carries a zlib of its own
from pathlib import Path

import cv2
import numpy as np
import pycolmap

from services.mvs.views import Level, View, back_project

RADIUS, MIDDLE = 0.5, np.array([0.0, 0.0, 0.48])
WIDTH, HEIGHT, FOCAL = 192, 144, 230.0
_WAVES = np.random.default_rng(5).normal(0, 1, (60, 3)) * np.random.default_rng(6).uniform(6, 45, (60, 1))
_AT_ONCE = 8192  # points whose waves a core's cache holds
_PHASES = np.random.default_rng(7).uniform(0, 6.28, 60)


def albedo(points: np.ndarray) -> np.ndarray:
    """Grey 0..255 of n×3 world points: many waves in many directions, so that no window looks like another."""
    kind = points.dtype
    waves, phases = _WAVES.T.astype(kind), _PHASES.astype(kind)
    sums = [np.cos(points[i : i + _AT_ONCE] @ waves + phases).sum(axis=1) for i in range(0, len(points), _AT_ONCE)]
    return 128 + 22 * np.concatenate([np.empty(0), *sums]) / np.sqrt(len(_WAVES)) * 2


def orbit(count: int, folder: Path, arc_deg: float = 360.0, elevations_deg: tuple[float, ...] = (30.0,), enlarged: int = 1) -> list[View]:
    """Cameras around the sphere at the elevations in turns; photos `enlarged` times as wide and high."""
    views = []
    for i in range(count):
        azimuth = np.radians(arc_deg) * i / count
        elevation = np.radians(elevations_deg[i % len(elevations_deg)])
        away = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
        centre, forward = MIDDLE + 2.4 * away, -away
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        width, height, focal = enlarged * WIDTH, enlarged * HEIGHT, enlarged * FOCAL
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        views.append(View(f"p{i:02d}.png", folder / "images" / f"p{i:02d}.png", None, R, -R @ centre, K, width, height))
    return views


def true_inverse_depth(level: Level) -> np.ndarray:
    """(H, W): of the sphere where it is hit, else of the ground; 0 where neither is."""
    y, x = np.mgrid[0 : level.height, 0 : level.width].astype(float)
    rays = np.stack([(x - level.K[0, 2]) / level.K[0, 0], (y - level.K[1, 2]) / level.K[1, 1], np.ones_like(x)], axis=-1) @ level.view.R
    centre = level.view.centre
    a, b = (rays * rays).sum(-1), rays @ (centre - MIDDLE)
    root = b * b - a * ((centre - MIDDLE) @ (centre - MIDDLE) - RADIUS**2)
    sphere = (-b - np.sqrt(np.maximum(root, 0))) / a
    ground = np.where(rays[..., 2] < -1e-6, -centre[2] / np.minimum(rays[..., 2], -1e-6), np.inf)
    depth = np.where(root > 0, sphere, ground)
    return np.where(depth < 12, 1 / depth, 0.0)


def photograph(view: View, textured: bool = True) -> np.ndarray:
    """The grey photo, 2×2 rays per pixel; flat grey when not `textured`."""
    K = view.K * np.array([[2], [2], [1.0]])
    K[:2, 2] -= 0.5
    fine = Level(view, K, 2 * view.width, 2 * view.height)
    inverse = true_inverse_depth(fine)
    grey = np.full(inverse.shape, 200.0)
    rows, columns = np.nonzero(inverse)
    if textured:
        points = back_project(fine, columns.astype(float), rows.astype(float), inverse[rows, columns])
        grey[rows, columns] = albedo(points if view.width == WIDTH else points.astype(np.float32))  # large photos: in a tenth of the time
    small = grey.reshape(view.height, 2, view.width, 2).mean(axis=(1, 3))
    return np.clip(np.round(small), 0, 255).astype(np.uint8)


def write_sfm_outputs(folder: Path, count: int = 10, textured: bool = True, enlarged: int = 1) -> list[View]:
    """cameras.json, images/ and sparse/ below `folder`, as sfm writes them, from the true cameras."""
    views = orbit(count, folder, enlarged=enlarged)
    (folder / "images").mkdir(parents=True)
    (folder / "sparse").mkdir()
    for view in views:
        cv2.imwrite(str(view.image), photograph(view, textured))
    entries = {
        v.name: {
            "file": f"images/{v.name}",
            "mask": None,
            "R": v.R.tolist(),
            "t": v.t.tolist(),
            "K": v.K.tolist(),
            "width": v.width,
            "height": v.height,
        }
        for v in views
    }
    (folder / "cameras.json").write_text(json.dumps({"images": entries}))
    sparse_model(views).write(str(folder / "sparse"))
    return views


def sparse_model(views: list[View]) -> "pycolmap.Reconstruction":
    """Points on the surface that at least three views see."""
    rng = np.random.default_rng(1)
    directions = rng.normal(0, 1, (500, 3))
    sphere = MIDDLE + RADIUS * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    points = np.vstack([sphere, np.column_stack([rng.uniform(-1.4, 1.4, (500, 2)), np.zeros(500)])])
    model = pycolmap.Reconstruction()
    width, height, focal = views[0].width, views[0].height, views[0].K[0, 0]
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(model="PINHOLE", width=width, height=height, params=[focal, focal, width / 2, height / 2], camera_id=1)
    )
    tracks: dict[int, list[tuple[int, int]]] = {}
    for i, view in enumerate(views):
        image = (points @ view.R.T + view.t) @ view.K.T
        xy = image[:, :2] / image[:, 2:]
        inside = (xy > 1).all(axis=1) & (xy[:, 0] < width - 1) & (xy[:, 1] < height - 1)
        inverse = true_inverse_depth(Level(view, view.K, width, height))
        columns, rows = xy[:, 0].astype(int).clip(0, width - 1), xy[:, 1].astype(int).clip(0, height - 1)
        seen = np.flatnonzero(inside & (np.abs(inverse[rows, columns] * image[:, 2] - 1) < 0.03))
        entry = pycolmap.Image(name=view.name, camera_id=1, image_id=i + 1, keypoints=xy[seen])
        model.add_image_with_trivial_frame(entry, pycolmap.Rigid3d(pycolmap.Rotation3d(view.R), view.t))
        for k, point in enumerate(seen):
            tracks.setdefault(int(point), []).append((i + 1, k))
    for point, track in tracks.items():
        if len(track) >= 3:
            elements = [pycolmap.TrackElement(image_id, k) for image_id, k in track]
            model.add_point3D(points[point], pycolmap.Track(elements), np.array([128, 128, 128], np.uint8))
    return model
