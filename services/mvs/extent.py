"""How far the object reaches: thin parts have no sparse points, so the box around those points may cut them off.

After the coarsest level, what neighbours confirm above the support plane is grouped in cells; where the group that holds the object touches
a side of the box, the object goes on behind that side.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from services.mvs.consistency_kernels import agreement
from services.mvs.depth_maps import Scene, stacked
from services.mvs.region import Box, Region
from services.mvs.views import Floats, back_project, warp

_CELLS = 32  # along the longest side of the box
_LEAST_POINTS = 3  # in a cell that is occupied, over all photos
_MOST_COST = 0.5
_MOST_ERROR_PX = 1.0


def confirmed_points(scene: Scene, index: int) -> Floats:
    """n×3 world points of a view's coarsest map that its neighbours' maps confirm, in the region and above its support plane."""
    divisor = scene.params.levels[0]
    level, checks = scene.level(index, divisor), scene.selections[index].checks
    others = [scene.level(k, divisor) for k in checks]
    there, back = (np.array(w).reshape(-1, 12) for w in ([warp(level, o) for o in others], [warp(o, level) for o in others]))
    maps = stacked([scene.load("coarsest", k) for k in checks], 4)
    least = min(scene.params.min_consistent_views, max(len(checks), 1))
    planes = np.array(scene.load("coarsest", index))
    merged, _ = agreement(planes, maps, there, back, _MOST_COST, least, _MOST_ERROR_PX, scene.params.max_depth_error)
    rows, columns = np.nonzero(merged)
    points = back_project(level, columns.astype(float), rows.astype(float), merged[rows, columns].astype(float))
    return points[scene.region.stands_clear(points)]


def object_extent(box: Box, parts: Sequence[Floats]) -> tuple[Floats, Floats] | None:
    """Lowest and highest coordinates along the box's axes, in half sizes (−1..1), of the largest connected group of all parts' points.

    `parts`: n×3 each, world. None: there is no group.
    """
    size = 2 * float(box.half.max()) / _CELLS
    shape = tuple(np.ceil(2 * box.half / size).astype(int) + 1)
    local = box.local(np.concatenate([np.empty((0, 3)), *parts]))
    cells = np.ravel_multi_index(tuple(np.floor((local + box.half) / size).astype(np.int64).T), shape, mode="clip")
    counts = np.bincount(cells, minlength=int(np.prod(shape)))
    labels, groups = ndimage.label(counts.reshape(shape) >= _LEAST_POINTS, structure=np.ones((3, 3, 3)))
    if groups == 0:
        return None
    group = labels.ravel()[cells]
    largest = local[group == 1 + int(np.argmax(np.bincount(group, minlength=2)[1:]))]
    return largest.min(axis=0) / box.half, largest.max(axis=0) / box.half


def wider_region(core: Region, parts: Sequence[Floats]) -> Region:
    """The region grown where the object among all views' confirmed points touches it; itself where it touches none of its sides."""
    extent = None if core.box is None else object_extent(core.box, parts)
    return core if extent is None else core.looking_beyond(*extent)


def closed_region(wider: Region, core: Region, parts: Sequence[Floats]) -> Region:
    """The grown region closed in again around the object among the points that were confirmed in it, no smaller than the core."""
    if wider.box is None or core.box is None:
        return wider
    extent = object_extent(wider.box, parts)
    return wider if extent is None else wider.closing_in(core.box, *extent)
