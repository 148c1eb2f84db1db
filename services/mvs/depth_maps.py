"""Depth maps of one view after the other: a pyramid of PatchMatch levels, then a pass in which neighbours must agree.

Round 1 takes a view from the coarsest level to the last but one; round 2, which needs every neighbour's map of round 1, to the finest.
Maps live in files between rounds, so memory does not grow with the number of views.
"""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from services.mvs.params import MvsParams
from services.mvs.patchmatch_kernels import Stereo, enlarge_planes, improve_planes, rescore_planes, seed_planes
from services.mvs.region import Region
from services.mvs.seeds import sparse_planes
from services.mvs.view_selection import Selection
from services.mvs.views import Floats, Level, Maps, View, at_level, back_project, warp

Flags = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

_RANDOM_TRIES = 6
_DISTRUSTED_COST = 0.5  # a coarse depth with a higher cost does not take a pixel out of the region
_FIRST_AMPLITUDE_PX = {True: 4.0, False: 1.0}  # of random changes: at the coarsest level, at the others


@dataclass(frozen=True)
class Scene:
    """All that the rounds need. `visible`: per view, the sparse points that it sees (n×3, world). `scale`: divisor before the levels."""

    views: list[View]
    selections: list[Selection]
    visible: list[Floats]
    region: Region
    params: MvsParams
    scratch: Path
    scale: list[float] = field(default_factory=list)

    def level(self, index: int, divisor: float) -> Level:
        """View `index` at a pyramid level."""
        return at_level(self.views[index], self.scale[index] * divisor)

    def path(self, kind: str, index: int) -> Path:
        """Where a map lies between rounds."""
        return self.scratch / f"{kind}_{index:04d}.npy"

    def load(self, kind: str, index: int) -> Maps:
        """A map of an earlier round, read from its file as needed."""
        return np.asarray(np.load(self.path(kind, index), mmap_mode="r"))


def stacked(maps: list[Maps], channels: int) -> Maps:
    """V×h×w×channels, maps of smaller views padded with zeros (no depth)."""
    height, width = max((m.shape[0] for m in maps), default=1), max((m.shape[1] for m in maps), default=1)
    stack = np.zeros((len(maps), height, width, channels), np.float32)
    for k, single in enumerate(maps):
        stack[k, : single.shape[0], : single.shape[1]] = single[..., :channels]
    return stack


def depth_range(scene: Scene, index: int) -> tuple[float, float]:
    """Smallest and largest inverse depth of a view: of its sparse points, and of the region where there is one."""
    selection = scene.selections[index]
    near, far = selection.near, selection.far
    if scene.region.box is not None:
        z = scene.region.box.corners() @ scene.views[index].R[2] + scene.views[index].t[2]
        near = max(near, float(z.min())) if z.min() < far else near
        far = min(far, float(z.max())) if z.max() > near else far
    return 1.0 / far, 1.0 / near


def _stereo(scene: Scene, index: int, divisor: int, active: Flags, neighbours: Maps | None) -> Stereo:
    reference = scene.level(index, divisor)
    sources = [scene.level(k, divisor) for k in scene.selections[index].sources]
    photos = [level.grey() for level in sources]
    starts = np.cumsum([0] + [p.size for p in photos[:-1]]).astype(np.int64)
    low, high = depth_range(scene, index)
    # A padding row: the bilinear fetch may read one past the last pixel with weight 0.
    flat = np.concatenate([p.ravel() for p in photos] + [np.zeros(photos[-1].shape[1] + 2, np.float32)])
    return Stereo(
        reference.grey(),
        flat,
        starts,
        np.array([(level.width, level.height) for level in sources], np.int64),
        np.array([warp(reference, level) for level in sources]),
        np.array([warp(level, reference) for level in sources]),
        neighbours if neighbours is not None else np.zeros((len(sources), 1, 1, 3), np.float32),
        np.array([reference.K[0, 0], reference.K[1, 1], reference.K[0, 2], reference.K[1, 2]]),
        active,
        low,
        high,
    )


def first_active(scene: Scene, index: int, divisor: int) -> Flags:
    """Pixels whose ray meets the region and that the mask allows, at a level."""
    level = scene.level(index, divisor)
    active = np.ones((level.height, level.width), np.bool_)
    if scene.region.box is not None:
        active &= scene.region.box.met_by(level)
    mask = level.mask()
    if mask is not None:
        active &= cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return active


def narrowed(scene: Scene, index: int, divisor: int, planes: Maps, finer: int) -> Flags:
    """Pixels worth evaluating at the `finer` level: those whose coarse depth lies in the region, or is not to be trusted."""
    level, fine = scene.level(index, divisor), scene.level(index, finer)
    active = first_active(scene, index, divisor)
    if scene.region.box is not None:
        rows, columns = np.nonzero((planes[..., 0] > 0) & (planes[..., 3] < _DISTRUSTED_COST))
        points = back_project(level, columns.astype(float), rows.astype(float), planes[rows, columns, 0].astype(float))
        inside = scene.region.box.contains(points)
        active[rows[~inside], columns[~inside]] = False
        active = cv2.morphologyEx(active.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    grown = cv2.dilate(active.astype(np.uint8), np.ones((7, 7), np.uint8))
    return np.asarray(cv2.resize(grown, (fine.width, fine.height), interpolation=cv2.INTER_NEAREST) > 0)


def _improve(
    scene: Scene, stereo: Stereo, planes: Maps, best: Bytes, iterations: int, amplitude: float, geometric: float, salt: int
) -> None:
    for iteration in range(iterations):
        for colour in (0, 1):
            improve_planes(
                stereo,
                planes,
                best,
                scene.params.best_views,
                geometric,
                colour,
                amplitude / 2**iteration,
                salt + 64 * (2 * iteration + colour),
            )


def _salt(scene: Scene, index: int, stage: int) -> int:
    return (scene.params.seed * 15_485_863 + index * 104_729 + stage * 7_919) % 2**31


def photometric_map(scene: Scene, index: int) -> None:
    """Round 1: from seeds at the coarsest level to the last but one (the only one, where there is one)."""
    params, levels = scene.params, scene.params.levels
    active = first_active(scene, index, levels[0])
    level = scene.level(index, levels[0])
    planes, best = sparse_planes(level, scene.visible[index]), np.zeros((level.height, level.width, 2), np.uint8)
    stereo = _stereo(scene, index, levels[0], active, None)
    seed_planes(stereo, planes, best, params.best_views, _RANDOM_TRIES, _salt(scene, index, 0))
    _improve(scene, stereo, planes, best, params.seed_iterations, _FIRST_AMPLITUDE_PX[True], 0.0, _salt(scene, index, 1))
    for k, divisor in enumerate(levels[1:-1], start=1):
        stereo = _stereo(scene, index, divisor, narrowed(scene, index, levels[k - 1], planes, divisor), None)
        planes, best = enlarge_planes(planes, best, *stereo.grey.shape)
        rescore_planes(stereo, planes, best, params.best_views, 0.0)
        _improve(scene, stereo, planes, best, params.level_iterations, _FIRST_AMPLITUDE_PX[False], 0.0, _salt(scene, index, 1 + k))
    np.save(scene.path("photometric", index), planes)
    np.save(scene.path("best", index), best)


def geometric_map(scene: Scene, index: int) -> None:
    """Round 2: one iteration in which the neighbours' maps have a say, then the finest level; costs end as 1 − NCC alone."""
    params, levels = scene.params, scene.params.levels
    divisor = levels[max(len(levels) - 2, 0)]
    planes, best = scene.load("photometric", index).copy(), np.load(scene.path("best", index))
    if params.geometric_weight > 0:
        others = stacked([scene.load("photometric", k) for k in scene.selections[index].sources], 3)
        stereo = _stereo(scene, index, divisor, planes[..., 0] > 0, others)
        rescore_planes(stereo, planes, best, params.best_views, params.geometric_weight)
        _improve(scene, stereo, planes, best, 1, 0.5, params.geometric_weight, _salt(scene, index, 20))
    if len(levels) > 1:
        stereo = _stereo(scene, index, levels[-1], narrowed(scene, index, divisor, planes, levels[-1]), None)
        planes, best = enlarge_planes(planes, best, *stereo.grey.shape)
    rescore_planes(stereo, planes, best, params.best_views, 0.0)
    if len(levels) > 1:
        _improve(scene, stereo, planes, best, params.final_iterations, 0.5, 0.0, _salt(scene, index, 21))
    np.save(scene.path("final", index), planes)
