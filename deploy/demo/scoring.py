"""How good a delivered model is, against the truth of a capture.

F-score: precision (share of the delivered surface within a distance of the truth) and recall (share of the truth that at
least two photos saw within that distance of the delivered surface), lengths as fractions of the object's diagonal.
Delivered cameras tie the model's frame to the truth's.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open3d as o3d
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]

THRESHOLDS = (0.001, 0.0025, 0.005, 0.01)  # fractions of the object's diagonal
OFF_OBJECT = 0.02  # farther than this fraction of the diagonal from the object is off it
SAMPLES = 200_000
_GRAZING_COSINE = 0.2  # seen flatter than 78 degrees, five units of surface share one of the photo: not seen
_SEED = 20


@dataclass(frozen=True)
class Similarity:
    """x ↦ scale · R · x + t."""

    scale: float
    R: Floats
    t: Floats

    def __call__(self, points: Floats) -> Floats:
        """Transforms n×3 points."""
        return np.asarray(self.scale * points @ self.R.T + self.t)


@dataclass(frozen=True)
class CameraErrors:
    """Differences after alignment: centres as fractions of the object's diagonal, rotations in degrees."""

    registered: int
    total: int
    centre_mean: float
    centre_max: float
    rotation_mean_deg: float
    rotation_max_deg: float


@dataclass(frozen=True)
class SurfaceScore:
    """Shares 0..1, one value per threshold in `THRESHOLDS`; mean distances as fractions of the object's diagonal.

    `accuracy`: from the delivered surface to the truth; `completeness`: from the truth that two photos saw to the delivered surface.
    """

    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f_score: tuple[float, ...]
    off_object: float
    accuracy: float
    completeness: float


@dataclass(frozen=True)
class Truth:
    """The object and the cameras. `samples`: n×3, even over its surface; `sample_seen`: whether at least two photos saw each."""

    mesh: Any  # open3d.geometry.TriangleMesh
    samples: Floats
    sample_seen: NDArray[np.bool_]
    cameras: dict[str, Any]  # of the photos; views kept out are not among them
    diagonal: float

    @property
    def seen(self) -> Floats:
        """Samples of the surface that at least two photos saw."""
        return np.asarray(self.samples[self.sample_seen])


def umeyama(source: Floats, target: Floats) -> Similarity:
    """The similarity that brings n×3 `source` points onto `target` in the least squares sense (Umeyama 1991); n ≥ 3, not on one line."""
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    a, b = source - source_mean, target - target_mean
    u, s, vt = np.linalg.svd(b.T @ a / len(a))
    sign = np.ones(3)
    sign[2] = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    R = u @ np.diag(sign) @ vt
    scale = float((s * sign).sum() / (a * a).sum(axis=1).mean())
    return Similarity(scale, R, target_mean - scale * R @ source_mean)


def read_cameras(path: Path) -> dict[str, Any]:
    """The `images` of a cameras.json."""
    images: dict[str, Any] = json.loads(path.read_text())["images"]
    return images


def _centre(camera: dict[str, Any]) -> Floats:
    return np.asarray(-np.array(camera["R"]).T @ np.array(camera["t"]))


def align_cameras(delivered: dict[str, Any], truth: dict[str, Any], diagonal: float) -> tuple[Similarity, CameraErrors]:
    """The similarity from the delivered frame to the truth's, from the centres of the cameras that both have, and what remains."""
    names = sorted(set(delivered) & set(truth))
    if len(names) < 3:
        raise ValueError(f"only {len(names)} cameras in common with the truth: no alignment")
    ours = np.array([_centre(delivered[name]) for name in names])
    theirs = np.array([_centre(truth[name]) for name in names])
    similarity = umeyama(ours, theirs)
    distances = np.linalg.norm(similarity(ours) - theirs, axis=1) / diagonal
    angles = []
    for name in names:
        difference = np.array(delivered[name]["R"]) @ similarity.R.T @ np.array(truth[name]["R"]).T
        angles.append(np.degrees(np.arccos(np.clip((np.trace(difference) - 1) / 2, -1, 1))))
    return similarity, CameraErrors(
        len(names), len(truth), float(distances.mean()), float(distances.max()), float(np.mean(angles)), float(np.max(angles))
    )


def _scene(mesh: Any) -> Any:
    scene = o3d.t.geometry.RaycastingScene()
    vertices, triangles = np.asarray(mesh.vertices, dtype=np.float32), np.asarray(mesh.triangles, dtype=np.uint32)
    scene.add_triangles(o3d.core.Tensor(vertices), o3d.core.Tensor(triangles))
    return scene


def _sampled(mesh: Any, count: int, seed: int = _SEED) -> tuple[Floats, Floats]:
    """Points and face normals, even over the mesh's area, the same for the same seed."""
    rng = np.random.default_rng(seed)
    corners = np.asarray(mesh.vertices)[np.asarray(mesh.triangles)]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    face = rng.choice(len(area), count, p=area / area.sum())
    u, v = rng.random(count), rng.random(count)
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u)[:, None], np.where(flip, 1 - v, v)[:, None]
    a, b, c = corners[face, 0], corners[face, 1], corners[face, 2]
    return np.asarray(a + u * (b - a) + v * (c - a)), np.asarray(cross[face] / area[face, None])


def seen_count(points: Floats, normals: Floats, cameras: dict[str, Any], mesh: Any) -> NDArray[np.int64]:
    """How many photos see each of n×3 surface points: inside the frame, turned to the camera, nothing of the object in between."""
    scene = _scene(mesh)
    count = np.zeros(len(points), np.int64)
    lift = 1e-4 * float(np.linalg.norm(mesh.get_max_bound() - mesh.get_min_bound()))
    for camera in cameras.values():
        K, centre = np.array(camera["K"]), _centre(camera)
        image = (points @ np.array(camera["R"]).T + np.array(camera["t"])) @ K.T
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = image[:, 0] / image[:, 2], image[:, 1] / image[:, 2]
        toward = centre - points
        toward /= np.linalg.norm(toward, axis=1, keepdims=True)
        inside = (image[:, 2] > 0) & (x > 0) & (y > 0) & (x < camera["width"]) & (y < camera["height"])
        candidates = np.flatnonzero(inside & ((toward * normals).sum(axis=1) > _GRAZING_COSINE))
        start = points[candidates] + lift * normals[candidates]
        rays = np.concatenate([start, centre - start], axis=1).astype(np.float32)
        blocked = scene.test_occlusions(o3d.core.Tensor(rays), tnear=0.0, tfar=1.0).numpy()
        count[candidates[~blocked]] += 1
    return count


def load_truth(folder: Path, samples: int = SAMPLES) -> Truth:
    """Reads mesh.ply and cameras.json as `deploy.demo.capture` wrote them."""
    mesh = o3d.io.read_triangle_mesh(str(folder / "mesh.ply"))
    cameras = {name: camera for name, camera in read_cameras(folder / "cameras.json").items() if not camera.get("kept_out")}
    points, normals = _sampled(mesh, samples)
    seen = seen_count(points, normals, cameras, mesh) >= 2
    diagonal = float(np.linalg.norm(mesh.get_max_bound() - mesh.get_min_bound()))
    return Truth(mesh, points, seen, cameras, diagonal)


def delivered_samples(path: Path, count: int = SAMPLES) -> tuple[Floats, Any]:
    """n×3 points of a delivered PLY: area samples of a mesh (returned as well), or the points of a cloud, thinned to `count`."""
    mesh = o3d.io.read_triangle_mesh(str(path))
    if len(mesh.triangles):
        return _sampled(mesh, count)[0], mesh
    points = np.asarray(o3d.io.read_point_cloud(str(path)).points)
    if len(points) > count:
        points = points[np.random.default_rng(_SEED).choice(len(points), count, replace=False)]
    return points, None


def score_surface(points: Floats, mesh: Any, truth: Truth) -> SurfaceScore:
    """Scores delivered n×3 points, and their mesh where they are samples of one, both in the truth's frame.

    Delivered points whose nearest true point no two photos saw are invented: they count neither for nor against, except as
    off the object where they are.
    """
    closest = _scene(truth.mesh).compute_closest_points(o3d.core.Tensor(points.astype(np.float32)))["points"].numpy()
    to_truth = np.linalg.norm(points - closest, axis=1) / truth.diagonal
    judged = truth.sample_seen[cKDTree(truth.samples).query(closest, workers=2)[1]]
    seen = truth.seen
    if mesh is not None:
        distance = _scene(mesh).compute_distance(o3d.core.Tensor(seen.astype(np.float32))).numpy()
    else:
        distance = cKDTree(points).query(seen, workers=2)[0]
    to_delivered = distance / truth.diagonal
    precision = tuple(float((to_truth[judged] < limit).mean()) if judged.any() else 0.0 for limit in THRESHOLDS)
    recall = tuple(float((to_delivered < limit).mean()) for limit in THRESHOLDS)
    f_score = tuple(2 * p * r / (p + r) if p + r else 0.0 for p, r in zip(precision, recall, strict=True))
    accuracy = float(to_truth[judged].mean()) if judged.any() else float("inf")
    off_object = float((to_truth > OFF_OBJECT).mean())
    return SurfaceScore(precision, recall, f_score, off_object, accuracy, float(to_delivered.mean()))


def score_delivery(surface: Path, cameras: Path, truth_folder: Path) -> tuple[SurfaceScore, CameraErrors]:
    """Scores a delivered mesh or cloud (PLY) with the cameras.json of the same frame."""
    truth = load_truth(truth_folder)
    similarity, errors = align_cameras(read_cameras(cameras), truth.cameras, truth.diagonal)
    points, mesh = delivered_samples(surface)
    if mesh is not None:
        mesh.vertices = o3d.utility.Vector3dVector(similarity(np.asarray(mesh.vertices)))
    return score_surface(similarity(points), mesh, truth), errors


def as_summary(score: SurfaceScore, errors: CameraErrors) -> dict[str, Any]:
    """The figures of `.demo/summary.json`: `f_score` by threshold and `camera_error` (mean centre error, fraction of the diagonal)."""
    by_threshold = {str(limit): round(value, 4) for limit, value in zip(THRESHOLDS, score.f_score, strict=True)}
    return {"f_score": by_threshold, "camera_error": round(errors.centre_mean, 6), "off_object": round(score.off_object, 4)}
