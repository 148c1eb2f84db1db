"""Which points of the cloud are the object: above its support plane, connected, where the cameras look. World frame."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from services.postprocess.capture import Camera, Cloud, Floats
from services.postprocess.focus import Focus
from services.postprocess.free_space import FreeSpace
from services.postprocess.support_plane import Plane, find_support_plane

GRID = 96  # cells along the longest side when points are grouped
SIDE_SHARE = 0.05  # a further cluster is kept when it has this share of the main one's points and lies close to it
PART_SHARE = 0.002  # or this share, when it is a part: a leg or a handle whose joint stereo missed
PART_GAP = 0.05  # of the main cluster's extent: how near a part is to the rest
PART_RISE = 0.04  # of the same: how far its points rise from the plane; what lies flat is ground
LIKE_GROUND = 0.94  # cosine of a normal to the plane's: 20 degrees
PART_SAMPLE = 50_000  # points that gaps are measured to
FLOATER_MARGIN = 0.005  # of the diagonal: how far depth maps may differ from a point and still confirm it
NEIGHBOURS = 8
STRAY = 2.2  # times the median distance to the eighth neighbour; 99 % of a good cloud is below 1.9
SHEET = 0.15  # of that distance: the neighbours' median height over the tangent plane of a point on a thinly sampled surface
SHEET_COSINE = 0.9  # median, of its normal to theirs
LONELY = 10.0  # times the median distance: a stray, whatever its neighbours are
PLANE_MARGIN = 3.5  # noise levels above the plane that count as the object


@dataclass(frozen=True)
class Subject:
    """What is to be modelled. `plane` is what it stands on; `footprint` closes its underside (no points: unknown)."""

    cloud: Cloud
    footprint: Cloud
    plane: Plane | None
    isolated: bool


def keep_scene(cloud: Cloud, cameras: Sequence[Camera], free_space: FreeSpace) -> Subject:
    """Everything that two cameras see, without floaters and without stragglers far from the rest."""
    seen = views_of(cloud.points, cameras) >= 2
    centre = np.median(cloud.points[seen], axis=0) if seen.any() else np.zeros(3)
    distance = np.linalg.norm(cloud.points - centre, axis=1)
    reach = 2.5 * np.percentile(distance[seen], 90) if seen.any() else 0.0
    return Subject(tidy(cloud.select(seen & (distance < reach)), free_space), _nothing(), None, False)


def isolate(cloud: Cloud, focus: Focus, free_space: FreeSpace, seed: int, close_underside: bool) -> Subject:
    """The object that the cameras orbit, without what it stands on."""
    radius = 0.85 * focus.distance
    plane = find_support_plane(cloud, focus, radius, seed)
    near = np.linalg.norm(cloud.points - focus.point, axis=1) < radius
    margin = plane_margin(plane)
    indices = np.flatnonzero(near if plane is None else near & above(cloud, plane, margin))
    kept = cloud.select(indices[main_cluster(cloud.points[indices], focus.point, plane)])
    kept = tidy(kept, free_space)
    if plane is None or not close_underside or len(kept) == 0:
        return Subject(kept, _nothing(), plane, True)
    ground = cloud.select(near & (np.abs(plane.height(cloud.points)) <= margin))
    return Subject(kept, footprint(kept, ground, plane, margin), plane, True)


def above(cloud: Cloud, plane: Plane, margin: float) -> NDArray[np.bool_]:
    """Which points are above the plane. Near it, what faces up like the ground is the tail of the ground's noise."""
    height = plane.height(cloud.points)
    like_ground = cloud.normals @ plane.normal > LIKE_GROUND
    return np.asarray(height > np.where(like_ground, 3 * margin, margin))


def tidy(cloud: Cloud, free_space: FreeSpace) -> Cloud:
    """Without floaters and strays."""
    if len(cloud) == 0:
        return cloud
    extent = float(np.linalg.norm(np.ptp(np.percentile(cloud.points, [1, 99], axis=0), axis=0)))
    return without_strays(free_space.without_floaters(cloud, FLOATER_MARGIN * extent))


def without_strays(cloud: Cloud) -> Cloud:
    """The cloud without points far from their neighbours by the measure of the others, unless they lie in one sheet with them.

    What few photos saw, or only aslant, is thin as well. Of a weakly textured animal's sparse points the sheet keeps two thirds of the
    right ones and a quarter of the wrong; of a vessel with thin legs nine tenths and a quarter.
    """
    if len(cloud) <= NEIGHBOURS:
        return cloud
    tree = cKDTree(cloud.points)
    distance = tree.query(cloud.points, k=NEIGHBOURS + 1, workers=2)[0][:, -1]
    typical = float(np.median(distance))
    sparse = np.flatnonzero(distance >= STRAY * typical)
    if len(sparse):
        neighbours = tree.query(cloud.points[sparse], k=NEIGHBOURS + 1, workers=2)[1][:, 1:]
        sparse = sparse[~_in_sheet(cloud, sparse, neighbours, distance[sparse]) | (distance[sparse] > LONELY * typical)]
    kept = np.ones(len(cloud), bool)
    kept[sparse] = False
    return cloud.select(kept)


def _in_sheet(cloud: Cloud, which: NDArray[np.int64], neighbours: NDArray[np.int64], reach: Floats) -> NDArray[np.bool_]:
    """Which of the points, by index (k), lie in one sheet with their neighbours k×n, of which the farthest is `reach` (k) away."""
    normal = cloud.normals[which][:, None]
    offset = cloud.points[neighbours] - cloud.points[which][:, None]
    height = np.median(np.abs((offset * normal).sum(2)), axis=1)
    alike = np.median((cloud.normals[neighbours] * normal).sum(2), axis=1)
    return np.asarray((height < SHEET * reach) & (alike > SHEET_COSINE))


def plane_margin(plane: Plane | None) -> float:
    """Height above the plane from which points are the object's, world units."""
    return 0.0 if plane is None else PLANE_MARGIN * plane.noise


def views_of(points: Floats, cameras: Sequence[Camera]) -> NDArray[np.int32]:
    """How many cameras have each point n×3 in their frame."""
    count = np.zeros(len(points), np.int32)
    for camera in cameras:
        local = points @ camera.R.T + camera.t
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = (local @ camera.K.T)[:, :2] / local[:, 2:]
        inside = (pixels >= 0).all(1) & (pixels < (camera.width, camera.height)).all(1)
        count += (inside & (local[:, 2] > 0)).astype(np.int32)
    return count


def main_cluster(points: Floats, focus: Floats, plane: Plane | None = None) -> NDArray[np.int64]:
    """Indices of the connected group nearest to the focus and largest, of sizeable groups beside it, and of parts that stand on `plane`."""
    if len(points) == 0:
        return np.zeros(0, np.int64)
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    cell = max(float((high - low).max()) / GRID, 1e-12)
    index = np.clip(np.floor((points - low) / cell).astype(np.int64) + 2, 0, np.ceil((high - low) / cell).astype(np.int64) + 4)
    counts = np.zeros(index.max(0) + 2, np.int32)
    np.add.at(counts, tuple(index.T), 1)
    typical = np.median(counts[counts > 0])
    labels, groups = ndimage.label(counts >= max(1, 0.1 * typical), structure=np.ones((3, 3, 3)))
    label = labels[tuple(index.T)]
    if groups == 0:
        return np.arange(len(points))
    sizes = np.bincount(label, minlength=groups + 1).astype(float)
    sizes[0] = 0
    sizeable = np.flatnonzero(sizes >= SIDE_SHARE * sizes.max())
    scale = float((high - low).max())
    reach = np.array([_distance_to(points[label == i], focus) for i in sizeable])
    main = int(sizeable[np.argmax(sizes[sizeable] * np.exp(-((reach / (0.3 * scale)) ** 2)))])
    middle, extent = _middle_and_extent(points[label == main])
    offsets = np.array([np.linalg.norm(_middle_and_extent(points[label == i])[0] - middle) for i in sizeable])
    beside = sizeable[(sizes[sizeable] >= SIDE_SHARE * sizes[main]) & (offsets < 0.75 * extent)]
    if plane is not None:
        beside = np.array([i for i in beside if i == main or _rises(points[label == i], plane, extent)], np.int64)
    kept = np.isin(label, [main, *beside])
    return np.flatnonzero(kept if plane is None else kept | _parts(points, label, sizes, kept, plane, extent))


def _rises(points: Floats, plane: Plane, extent: float) -> bool:
    """Whether a group of points is more than a patch of the ground."""
    return bool(np.ptp(np.percentile(plane.height(points), [10, 90])) > PART_RISE * extent)


def _parts(
    points: Floats, label: NDArray[np.int32], sizes: Floats, kept: NDArray[np.bool_], plane: Plane, extent: float
) -> NDArray[np.bool_]:
    """Which points are in small groups that rise from the plane, under those `kept` or near to them or to such a group."""
    groups = np.flatnonzero((sizes >= PART_SHARE * kept.sum()) & ~np.isin(np.arange(len(sizes)), label[kept]))
    members = [each for each in (np.flatnonzero(label == i) for i in groups) if _rises(points[each], plane, extent)]
    found = np.zeros(len(points), bool)
    if not members:
        return found
    under = outline(points[kept], plane, extent)
    new = np.flatnonzero(kept)
    while members and len(new):
        tree = cKDTree(points[new[:: max(1, len(new) // PART_SAMPLE)]])
        joined = [bool(np.isfinite(tree.query(points[each], distance_upper_bound=PART_GAP * extent)[0]).any()) for each in members]
        joined = [near or float(under(points[each]).mean()) > 0.5 for near, each in zip(joined, members, strict=True)]
        new = np.concatenate([np.zeros(0, np.int64), *(each for each, yes in zip(members, joined, strict=True) if yes)])
        members = [each for each, yes in zip(members, joined, strict=True) if not yes]
        found[new] = True
    return found


def outline(points: Floats, plane: Plane, extent: float) -> Callable[[Floats], NDArray[np.bool_]]:
    """A function that tells which points n×3 lie within the outline, seen along the plane's normal, of these."""
    axes = np.linalg.svd(plane.normal[None])[2][1:]
    flat, cell = points @ axes.T, PART_GAP / 2 * extent
    start = flat.min(0)
    shape = (int(np.ceil(np.ptp(flat[:, 0]) / cell)) + 9, int(np.ceil(np.ptp(flat[:, 1]) / cell)) + 9)
    filled = ndimage.binary_fill_holes(_occupied(flat, start, cell, shape) > 0)

    def within(others: Floats) -> NDArray[np.bool_]:
        index = np.floor((others @ axes.T - start) / cell).astype(np.int64) + 4
        inside = (index >= 0).all(1) & (index < shape).all(1)
        return np.asarray(inside & filled[tuple(np.where(inside[:, None], index, 0).T)])

    return within


def footprint(kept: Cloud, ground: Cloud, plane: Plane, margin: float) -> Cloud:
    """Points on the plane, facing down, where the object stands: the outline of its lowest band, filled, without ground that was seen."""
    height = plane.height(kept.points)
    band = max(3 * margin, 0.03 * float(np.percentile(height, 99)))
    low = height < band
    if low.sum() < 50:
        return _nothing()
    axes = np.linalg.svd(plane.normal[None])[2][1:]
    flat = kept.points @ axes.T
    start, stop = flat[low].min(0), flat[low].max(0)
    cell = max(float((stop - start).max()) / 200, 1.5 * point_spacing(kept))
    shape = tuple(np.ceil((stop - start) / cell).astype(int) + 9)
    outline = _occupied(flat[low], start, cell, shape) > 0
    bare = _occupied(ground.points @ axes.T, start, cell, shape) >= 2
    closed = ndimage.binary_closing(outline, ndimage.generate_binary_structure(2, 1), iterations=3)
    filled = ndimage.binary_fill_holes(closed) & ~(bare & ~outline)
    inner = ndimage.binary_erosion(filled)  # the outermost cells are half beside the object
    cells = np.argwhere(inner if inner.any() else filled)
    fine = (cells[:, None] + np.array([[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]])).reshape(-1, 2)
    points = ((fine - 4) * cell + start) @ axes + plane.offset * plane.normal
    colour = np.median(kept.colours[low], axis=0).astype(np.uint8)
    return Cloud(points, np.broadcast_to(-plane.normal, points.shape).copy(), np.broadcast_to(colour, points.shape).copy())


def point_spacing(cloud: Cloud) -> float:
    """Typical distance between neighbouring points, world units, from the surface's occupancy of a grid."""
    low, high = np.percentile(cloud.points, [1, 99], axis=0)
    cell = max(float((high - low).max()) / 128, 1e-12)
    index = np.floor((cloud.points - low) / cell).astype(np.int64)
    index -= index.min(0)
    span = index.max(0) + 1
    cells = np.unique((index[:, 0] * span[1] + index[:, 1]) * span[2] + index[:, 2])  # of rows it would take twenty times as long
    return cell * float(np.sqrt(len(cells) / max(len(cloud), 1)))


def _occupied(flat: Floats, start: Floats, cell: float, shape: tuple[int, ...]) -> NDArray[np.int32]:
    index = np.floor((flat - start) / cell).astype(np.int64) + 4
    inside = (index >= 0).all(1) & (index < shape).all(1)
    counts = np.zeros(shape, np.int32)
    np.add.at(counts, tuple(index[inside].T), 1)
    return counts


def _distance_to(points: Floats, target: Floats) -> float:
    return float(np.percentile(np.linalg.norm(points - target, axis=1), 5))


def _middle_and_extent(points: Floats) -> tuple[Floats, float]:
    low, high = np.percentile(points, [1, 99], axis=0)
    return (low + high) / 2, float(np.linalg.norm(high - low))


def _nothing() -> Cloud:
    return Cloud(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3), np.uint8))
