"""Depth maps of one view after the other: a pyramid of PatchMatch levels, then a pass in which neighbours must agree.

Round 0 is the coarsest level, after which the region of interest is settled; round 1 takes a view to the last level but one; round 2, which
needs every neighbour's map of round 1, to the finest.
Maps live in files between rounds, so memory does not grow with the number of views.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from services.mvs.params import MvsParams
from services.mvs.patchmatch_kernels import (
    MIN_DEVIATION,
    Stereo,
    enlarge_planes,
    exchange_planes,
    improve_planes,
    rescore_planes,
    seed_planes,
    with_neighbours,
)
from services.mvs.refinement_kernels import refine_planes
from services.mvs.region import Region
from services.mvs.seeds import sparse_planes
from services.mvs.view_selection import Selection
from services.mvs.views import Floats, Level, Maps, View, at_level, back_project, warp

Flags = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

_RANDOM_TRIES = 6
_DISTRUSTED_COST = 0.5  # a coarse depth with a higher cost does not take a pixel out of the region
_RIM_PX = 3  # around what is worth refining, in pixels of the coarser level
_STEPS = 2  # of refinement after a change of level
_LOST_COST = 0.4  # pixels that match worse after a level look for quite another plane
_LOST_ITERATIONS = 3
_EFFORT_OF_LOST = 8  # times as long as any other pixel's
_STEPS_OF_WHOLE_FRAMES = 1  # at the finest level without a region: five times as many pixels, of which the cloud's limit keeps one in nine
_SETTLED_COST = 0.05  # pixels that match so well after refinement try no other planes


@dataclass(frozen=True)
class Sweep:
    """Red-black iterations. `amplitude_px` of random changes, halved each time; pixels of less than `settled` cost stay as they are."""

    iterations: int
    amplitude_px: float
    settled: float
    geometric: float
    salt: int


@dataclass(frozen=True)
class Scene:
    """All that the rounds need. `visible`: per view, the sparse points that it sees (n×3, world); for the coarsest level alone."""

    views: list[View]
    selections: list[Selection]
    visible: list[Floats]
    region: Region
    params: MvsParams
    scratch: Path

    def level(self, index: int, divisor: float) -> Level:
        """View `index` at a pyramid level."""
        view = self.views[index]
        return at_level(view, max(1.0, max(view.width, view.height) / self.params.max_image_size) * divisor)

    def usable(self) -> list[int]:
        """The views that have sources: the others get no depth map."""
        return [i for i, selection in enumerate(self.selections) if selection.sources]

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
    """Smallest and largest inverse depth of a view: of its sparse points, and no nearer than the region where there is one.

    What lies behind the region keeps its depth: it tells that the space in front of it is empty.
    """
    selection = scene.selections[index]
    near, far = selection.near, selection.far
    if scene.region.box is not None:
        z = scene.region.box.corners() @ scene.views[index].R[2] + scene.views[index].t[2]
        near, far = max(near, float(z.min())) if z.min() < far else near, max(far, float(z.max()))
    return 1.0 / far, 1.0 / near


def _stereo(scene: Scene, index: int, divisor: int, active: Flags, neighbours: Maps | None) -> Stereo:
    reference = scene.level(index, divisor)
    sources = [scene.level(k, divisor) for k in scene.selections[index].sources]
    photos = [level.grey() for level in sources]
    starts = np.cumsum([0] + [p.size for p in photos[:-1]]).astype(np.int64)
    low, high = depth_range(scene, index)
    flat = np.concatenate([with_neighbours(p).ravel() for p in photos])
    return Stereo(
        reference.grey(),
        flat,
        starts,
        np.array([(level.width, level.height) for level in sources], np.int64),
        np.array([warp(reference, level) for level in sources]),
        np.array([warp(level, reference) for level in sources]),
        neighbours if neighbours is not None else np.zeros((len(sources), 1, 1, 4), np.float32),
        np.array([reference.K[0, 0], reference.K[1, 1], reference.K[0, 2], reference.K[1, 2]]),
        active,
        low,
        high,
    )


def first_active(scene: Scene, index: int, divisor: float) -> Flags:
    """Pixels whose ray meets the region and that the mask allows, at a level."""
    level = scene.level(index, divisor)
    active = np.ones((level.height, level.width), np.bool_)
    if scene.region.box is not None:
        active &= scene.region.box.met_by(level)
    mask = level.mask()
    if mask is not None:
        active &= cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return active


def worth_refining(scene: Scene, index: int, divisor: float, planes: Maps, finer: float) -> Flags:
    """Pixels to evaluate at the `finer` level: what stands on the support plane, what is not to be trusted, and a rim around both.

    The others (the ground, and what lies behind the region) keep their coarse planes: enough to find the support plane and to tell that the
    space in front of them is empty.
    """
    level, fine = scene.level(index, divisor), scene.level(index, finer)
    active = first_active(scene, index, divisor)
    if scene.region.box is not None:
        rows, columns = np.nonzero((planes[..., 0] > 0) & (planes[..., 3] < _DISTRUSTED_COST))
        points = back_project(level, columns.astype(float), rows.astype(float), planes[rows, columns, 0].astype(float))
        other = ~scene.region.contains_object(points)
        active[rows[other], columns[other]] = False
        active = cv2.morphologyEx(active.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    grown = cv2.dilate(active.astype(np.uint8), np.ones((2 * _RIM_PX + 1,) * 2, np.uint8))
    return np.asarray(cv2.resize(grown, (fine.width, fine.height), interpolation=cv2.INTER_NEAREST) > 0)


def _propagate(stereo: Stereo, planes: Maps, best: Bytes, sweep: Sweep, best_views: int) -> None:
    for iteration in range(sweep.iterations):
        for colour in (0, 1):
            amplitude, salt = sweep.amplitude_px / 2**iteration, sweep.salt + 64 * (2 * iteration + colour)
            improve_planes(stereo, planes, best, best_views, sweep.geometric, colour, amplitude, sweep.settled, salt)


def _salt(scene: Scene, index: int, stage: int) -> int:
    return (scene.params.seed * 15_485_863 + index * 104_729 + stage * 7_919) % 2**31


def coarsest_map(scene: Scene, index: int) -> None:
    """Round 0: from seeds, at the coarsest level."""
    params, divisor = scene.params, scene.params.levels[0]
    level = scene.level(index, divisor)
    planes, best = sparse_planes(level, scene.visible[index]), np.zeros((level.height, level.width, 2), np.uint8)
    stereo = _stereo(scene, index, divisor, first_active(scene, index, divisor), None)
    seed_planes(stereo, planes, best, params.best_views, _RANDOM_TRIES, _salt(scene, index, 0))
    _propagate(stereo, planes, best, Sweep(params.seed_iterations, 4.0, -1.0, 0.0, _salt(scene, index, 1)), params.best_views)
    refine_planes(stereo, planes, best, params.best_views, _STEPS, -1.0, MIN_DEVIATION)
    np.save(scene.path("coarsest", index), planes)
    np.save(scene.path("best", index), best)


def expected_effort(scene: Scene, index: int) -> float:
    """How long a view's finer levels take beside another's: by its coarsest map, in which pixels that match badly foretell how many look
    for other planes at every level (correlation with the CPU time of 60 photos' next two rounds: 0.88)."""
    planes = scene.load("coarsest", index)
    there = planes[..., 0] > 0
    return 1.0 + float(there.sum() + _EFFORT_OF_LOST * (there & (planes[..., 3] > _LOST_COST)).sum())


def photometric_map(scene: Scene, index: int) -> None:
    """Round 1: from the coarsest level to the last but one (the only one, where there is one)."""
    params, levels = scene.params, scene.params.levels
    planes, best = np.array(scene.load("coarsest", index)), np.load(scene.path("best", index))
    for k, divisor in enumerate(levels[1:-1], start=1):
        planes, best = _finer(scene, index, planes, best, (levels[k - 1], divisor), params.level_iterations)
    np.save(scene.path("photometric", index), planes)
    np.save(scene.path("best", index), best)


def _finer(scene: Scene, index: int, planes: Maps, best: Bytes, divisors: tuple[int, int], iterations: int) -> tuple[Maps, Bytes]:
    """The next level: planes from the coarser one, refined; what then matches badly tries its neighbours' and is refined again."""
    views = scene.params.best_views
    stereo = _stereo(scene, index, divisors[1], worth_refining(scene, index, divisors[0], planes, divisors[1]), None)
    planes, best = enlarge_planes(planes, best, *stereo.grey.shape)
    whole_frames = scene.region.box is None and divisors[1] == scene.params.levels[-1]
    refine_planes(stereo, planes, best, views, _STEPS_OF_WHOLE_FRAMES if whole_frames else _STEPS, -1.0, MIN_DEVIATION)
    _propagate(stereo, planes, best, Sweep(iterations, 0.5, _SETTLED_COST, 0.0, _salt(scene, index, 10 + divisors[1])), views)
    if iterations > 0:
        refine_planes(stereo, planes, best, views, 1, _SETTLED_COST, MIN_DEVIATION)
    if divisors[1] != scene.params.levels[-1]:  # the last level finds little more, at four times the pixels
        _search_again(scene, index, stereo, planes, best)
    return planes, best


def _search_again(scene: Scene, index: int, stereo: Stereo, planes: Maps, best: Bytes) -> None:
    """What matches badly after a level tries random planes in the region, then its neighbours'.

    Thin parts get lost at coarser levels, where a window shows more of what lies behind them.
    """
    views, low = scene.params.best_views, stereo.low
    if scene.region.box is not None:
        z = scene.region.box.corners() @ scene.views[index].R[2] + scene.views[index].t[2]
        low = max(low, 1.0 / max(float(z.max()), 1e-9))
    lost = stereo.active & (planes[..., 0] > 0) & (planes[..., 3] > _LOST_COST)
    stereo = stereo._replace(active=lost, low=low)
    tried = planes.copy()
    seed_planes(stereo, tried, best, views, _RANDOM_TRIES, _salt(scene, index, 30))
    planes[lost] = tried[lost]
    _propagate(stereo, planes, best, Sweep(_LOST_ITERATIONS, 1.0, _SETTLED_COST, 0.0, _salt(scene, index, 31)), views)
    refine_planes(stereo, planes, best, views, 1, _SETTLED_COST, MIN_DEVIATION)


def geometric_map(scene: Scene, index: int) -> None:
    """Round 2: one iteration in which the neighbours' maps have a say, then the finest level; costs end as 1 − NCC alone."""
    params, levels = scene.params, scene.params.levels
    divisor = levels[max(len(levels) - 2, 0)]
    planes, best = scene.load("photometric", index).copy(), np.load(scene.path("best", index))
    if params.geometric_weight > 0:
        others = stacked([scene.load("photometric", k) for k in scene.selections[index].sources], 4)
        stereo = _stereo(scene, index, divisor, worth_refining(scene, index, divisor, planes, divisor), others)
        rescore_planes(stereo, planes, best, params.best_views, params.geometric_weight)
        exchange_planes(stereo, planes, best, params.best_views, params.geometric_weight, 2 * _SETTLED_COST)
        sweep = Sweep(1, 0.5, 2 * _SETTLED_COST, params.geometric_weight, _salt(scene, index, 20))
        _propagate(stereo, planes, best, sweep, params.best_views)
        refine_planes(stereo, planes, best, params.best_views, 1, -1.0, MIN_DEVIATION)
    if len(levels) > 1:
        planes, best = _finer(scene, index, planes, best, (divisor, levels[-1]), params.final_iterations)
    np.save(scene.path("final", index), planes)
