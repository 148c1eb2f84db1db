"""Observations moved to where they look like the best one of their track: least-squares matching (Gruen 1985).

A feature's position is good for 0.3 to 0.5 px: it was found in each photo by itself. Once cameras are known, each observation is compared
with a reference observation of the same point, through the affine map that the cameras give for a surface that faces them on average.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from services.sfm.alignment_kernels import STORED, align_patches, cut_patches
from services.sfm.colmap import pycolmap
from services.sfm.photos import Photo
from shared.thread_count import thread_count

BLUR = 0.7  # px: interpolation between pixels then changes the look of a patch less than its place
KEPT = 50  # observations a photo must keep: where fewer converge it keeps the features' own positions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Observations:
    """All n observations of a model, sorted by photo. Positions in pixels of the working images, the first pixel's centre at (0.5, 0.5)."""

    image: Ints  # (n,) image ids
    index: Ints  # (n,) of the image's points2D
    track: Ints  # (n,) index into `points`
    xy: Floats  # (n, 2)
    points: Floats  # (m, 3) world
    ids: Ints  # (m,) of the points
    normals: Floats  # (m, 3) world, unit: towards the mean of the cameras' directions
    reference: Ints  # (m,) index into the observations


@dataclass(frozen=True)
class Outcome:
    """What became of n observations."""

    xy: Floats  # (n, 2)
    found: NDArray[np.bool_]  # (n,) False: not to be used


@dataclass(frozen=True)
class Refinement:
    """What became of a model's observations."""

    moved_px: float  # median, in pixels of the working images
    dropped: float  # share of those that did not look like their track


def refine_keypoints(model: pycolmap.Reconstruction, photos: list[Photo], max_size: int) -> Refinement:
    """Moves the model's observations in place, and drops those that do not look like their track. Photos are looked at with at most
    `max_size` pixels along the longest side; photos that keep too few observations so stay as they are."""
    seen = observations(model)
    patches, valid = _reference_patches(model, photos, seen, max_size)
    ids = [int(i) for i in np.unique(seen.image)]
    parts = [np.flatnonzero(seen.image == i) for i in ids]
    with ThreadPoolExecutor(min(thread_count(), 8)) as pool:
        outcomes = list(pool.map(lambda i, part: _refine_in(model, photos[i - 1], seen, part, patches, valid, max_size), ids, parts))
    moved: list[Floats] = []
    dropped = 0
    for image_id, part, outcome in zip(ids, parts, outcomes, strict=True):
        if outcome.found.sum() < KEPT:
            continue
        moved.append(np.linalg.norm(outcome.xy - seen.xy[part], axis=1)[outcome.found])
        dropped += _apply(model, image_id, seen.index[part], outcome)
    distances = np.concatenate(moved) if moved else np.zeros(1)
    return Refinement(float(np.median(distances)), dropped / max(1, len(seen.image)))


def observations(model: pycolmap.Reconstruction) -> Observations:
    """Of registered photos. The reference of a track is the observation that sees it largest and most nearly from its mean direction."""
    ids = np.array(sorted(model.point3D_ids()), np.int64)
    at = {int(point_id): i for i, point_id in enumerate(ids)}
    points = np.array([model.point3D(int(i)).xyz for i in ids]).reshape(-1, 3)
    image, index, track, xy, away, depth = [], [], [], [], [], []
    for image_id in sorted(model.reg_image_ids()):
        view = model.image(image_id)
        listed = [(k, at[point.point3D_id], point.xy) for k, point in enumerate(view.points2D) if point.has_point3D()]
        if not listed:
            continue
        index += [k for k, _, _ in listed]
        track += [t for _, t, _ in listed]
        xy += [place for _, _, place in listed]
        image += [image_id] * len(listed)
        towards = view.projection_center() - points[[t for _, t, _ in listed]]
        length = np.linalg.norm(towards, axis=1)
        away.append(towards / length[:, None])
        depth.append(length / model.camera(view.camera_id).mean_focal_length())
    of, directions, pixel = np.array(track, np.int64), np.concatenate(away), np.concatenate(depth)
    normals = np.zeros_like(points)
    np.add.at(normals, of, directions)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    size = (directions * normals[of]).sum(axis=1) / pixel  # of the surface, in pixels
    order = np.lexsort((-size, of))
    reference = order[np.searchsorted(of[order], np.arange(len(ids)))]
    return Observations(np.array(image, np.int64), np.array(index, np.int64), of, np.array(xy), points, ids, normals, reference)


def local_warps(model: pycolmap.Reconstruction, seen: Observations, image_id: int, part: Ints) -> tuple[Floats, Floats]:
    """Where photo `image_id` sees the reference keypoints of its observations `part` ((k, 2) pixels), and the affine maps (k, 2, 2) from
    the reference photo's pixels to this one's, for planes through the points."""
    reference = seen.reference[seen.track[part]]
    offsets = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    world = np.empty((len(part), 3, 3))
    for other in np.unique(seen.image[reference]):
        rows = np.flatnonzero(seen.image[reference] == other)
        view = model.image(int(other))
        pixels = (seen.xy[reference[rows], None] + offsets).reshape(-1, 2)
        rays = np.column_stack([model.camera(view.camera_id).cam_from_img(pixels), np.ones(len(pixels))])
        centre = view.projection_center()
        directions = (rays @ view.cam_from_world().rotation.matrix()).reshape(-1, 3, 3)
        normals, points = seen.normals[seen.track[part[rows]]], seen.points[seen.track[part[rows]]]
        along = ((points - centre) * normals).sum(axis=1)[:, None] / (directions * normals[:, None]).sum(axis=2)
        world[rows] = centre + along[..., None] * directions
    here = model.image(image_id)
    seen_here = model.camera(here.camera_id).img_from_cam(here.cam_from_world() * world.reshape(-1, 3))
    projected = np.nan_to_num(np.asarray(seen_here, np.float64), nan=-1e6).reshape(-1, 3, 2)
    return projected[:, 0], np.stack([projected[:, 1] - projected[:, 0], projected[:, 2] - projected[:, 0]], axis=2)


def _reference_patches(
    model: pycolmap.Reconstruction, photos: list[Photo], seen: Observations, max_size: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    patches, valid = np.zeros((len(seen.points), STORED, STORED), np.float32), np.zeros(len(seen.points), np.bool_)

    def cut(image_id: int) -> None:
        tracks = np.flatnonzero(seen.image[seen.reference] == image_id)
        grey, scale = _grey(photos[image_id - 1], max_size)
        cut_here, valid_here = np.zeros((len(tracks), STORED, STORED), np.float32), np.zeros(len(tracks), np.bool_)
        cut_patches(grey, seen.xy[seen.reference[tracks]] * scale - 0.5, cut_here, valid_here)
        patches[tracks], valid[tracks] = cut_here, valid_here

    with ThreadPoolExecutor(min(thread_count(), 8)) as pool:
        list(pool.map(cut, [int(i) for i in np.unique(seen.image[seen.reference])]))
    return patches, valid


def _refine_in(
    model: pycolmap.Reconstruction,
    photo: Photo,
    seen: Observations,
    part: Ints,
    patches: NDArray[np.float32],
    valid: NDArray[np.bool_],
    max_size: int,
) -> Outcome:
    grey, scale = _grey(photo, max_size)
    projected, warps = local_warps(model, seen, int(seen.image[part[0]]), part)
    places = projected * scale - 0.5
    found = np.zeros(len(part), np.bool_)
    align_patches(grey, patches, seen.track[part], places, np.ascontiguousarray(warps), found)
    is_reference = seen.reference[seen.track[part]] == part
    found = (found | is_reference) & valid[seen.track[part]]
    xy = np.where(is_reference[:, None], seen.xy[part], (places + 0.5) / scale)
    return Outcome(xy, found)


def _apply(model: pycolmap.Reconstruction, image_id: int, index: Ints, outcome: Outcome) -> int:
    """Moves what was found and deletes what was not; how many those were. Points that are left with one observation go too."""
    image = model.image(image_id)
    points = image.points2D
    for k, xy, found in zip(index, outcome.xy, outcome.found, strict=True):
        if found:
            points[int(k)].xy = xy
    dropped = 0
    for k, found in zip(index, outcome.found, strict=True):
        if not found and image.points2D[int(k)].has_point3D():
            model.delete_observation(image_id, int(k))
            dropped += 1
    return dropped


def _grey(photo: Photo, max_size: int) -> tuple[NDArray[np.float32], Floats]:
    """(h, w) float32, and its pixels per working image's pixel in x and y."""
    grey = cv2.imread(str(photo.path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    assert grey is not None, f"ingest wrote an image that cannot be read: {photo.file}"
    reduction = min(1.0, max_size / photo.longest_side)
    if reduction < 1.0:
        grey = cv2.resize(grey, (round(photo.width * reduction), round(photo.height * reduction)), interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), BLUR)
    return np.asarray(smooth, np.float32), np.array([grey.shape[1] / photo.width, grey.shape[0] / photo.height])
