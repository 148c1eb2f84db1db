"""The rounds of the dense reconstruction over all views, one view per core."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Protocol, TypeVar

from services.mvs.depth_maps import Scene, coarsest_map, geometric_map, photometric_map
from services.mvs.extent import closed_region, confirmed_points, wider_region
from services.mvs.fusion import Cloud, MapQuality, delivered_by, filtered_map, thinned, write_depth_map
from services.mvs.params import MvsParams
from services.mvs.region import Region, find_region
from services.mvs.sparse import sparse_points
from services.mvs.view_selection import select_views
from services.mvs.views import load_views
from shared.thread_count import thread_count

Result = TypeVar("Result")
CHECKS_OF_WHOLE_FRAMES = 6  # where every pixel of every photo counts, asking more photos whether they agree takes longer than it helps
Progress = Callable[[float, str], None]


class OverViews(Protocol):
    """Does some work on every view."""

    def __call__(self, name: str, work: Callable[[int], Result], low: float, high: float) -> list[Result]:
        """Each view's result, in order."""
        ...


@dataclass(frozen=True)
class Dense:
    """What the rounds made. `pieces`: of the cloud, in order. `qualities`: per view that has sources, by name. `seconds`: per round."""

    pieces: list[Cloud]
    scene: Scene
    qualities: dict[str, MapQuality]
    seconds: dict[str, float]

    @property
    def points(self) -> int:
        """In the cloud."""
        return sum(map(len, self.pieces))


def build_scene(folder: Path, scratch: Path, params: MvsParams) -> Scene:
    """Reads sfm's outputs, chooses sources and the region."""
    views = load_views(folder)
    points, visible = sparse_points(folder / "sparse", views)
    region = find_region(views, points, params.seed) if params.region == "auto" else Region(False)
    checks = params.check_views if region.box is not None else min(params.check_views, CHECKS_OF_WHOLE_FRAMES)
    selections = select_views(folder, views, params.views, checks, params.min_angle_deg)
    return Scene(views, selections, visible, region, params, scratch)


class Rounds:
    """Work on every one of `views`, one view per core; reports progress and keeps the seconds of each round."""

    def __init__(self, pool: ThreadPoolExecutor, views: Sequence[int], progress: Progress, seconds: dict[str, float]) -> None:
        self._pool, self._views, self._progress, self._seconds = pool, views, progress, seconds

    def __call__(self, name: str, work: Callable[[int], Result], low: float, high: float) -> list[Result]:
        """`work` of each view, in order; `low` to `high` is the round's part of the stage's progress."""
        begun, count = monotonic(), len(self._views)
        results = []
        for done, result in enumerate(self._pool.map(work, self._views), start=1):
            results.append(result)
            self._progress(low + (high - low) * done / count, f"{name}: {done} of {count} photos")
        self._seconds[name.lower().replace(" ", "_")] = monotonic() - begun
        return results


def with_whole_object(scene: Scene, over_views: OverViews) -> Scene:
    """Makes the coarsest maps; the scene with a box that the object in them does not leave: grown, looked into, and closed in again."""
    over_views("Looking", lambda i: coarsest_map(scene, i), 0.02, 0.09)
    if scene.region.box is None:
        return scene
    wider = wider_region(scene.region, over_views("Locating", lambda i: confirmed_points(scene, i), 0.09, 0.10))
    if wider is scene.region:
        return scene
    beyond = replace(scene, region=wider)
    over_views("Looking beyond", lambda i: coarsest_map(beyond, i), 0.10, 0.14)
    points = over_views("Locating again", lambda i: confirmed_points(beyond, i), 0.14, 0.15)
    return replace(scene, region=closed_region(wider, scene.region, points))


def reconstruct(folder: Path, scratch: Path, params: MvsParams, progress: Progress) -> Dense:
    """Cameras and photos in `folder` to a cloud; everything passing goes to `scratch`."""
    seconds: dict[str, float] = {}
    started = monotonic()
    scene = build_scene(folder, scratch, params)
    usable = scene.usable()
    seconds["prepare"] = monotonic() - started
    with ThreadPoolExecutor(thread_count()) as pool:
        over_views = Rounds(pool, usable, progress, seconds)
        scene = with_whole_object(scene, over_views)
        over_views("Matching", lambda i: photometric_map(scene, i), 0.15, 0.35)
        over_views("Refining", lambda i: geometric_map(scene, i), 0.35, 0.85)
        qualities = over_views("Filtering", lambda i: filtered_map(scene, i), 0.85, 0.92)
        parts = over_views("Fusing", lambda i: delivered_by(scene, i), 0.92, 0.97)
    pieces = thinned(parts, params.max_points, params.seed)
    return Dense(pieces, scene, named_qualities(scene, qualities), seconds)


def write_depth_maps(dense: Dense, folder: Path, progress: Progress, written: Callable[[Path], None]) -> None:
    """Of every view that has sources, after the cloud; `written` is told of each."""
    with ThreadPoolExecutor(thread_count()) as pool:
        over_views = Rounds(pool, dense.scene.usable(), progress, dense.seconds)
        over_views("Writing", lambda i: written(write_depth_map(dense.scene, i, folder)), 0.97, 0.99)


def named_qualities(scene: Scene, qualities: list[MapQuality]) -> dict[str, MapQuality]:
    """By the names of the views that have sources, whose maps' qualities they are, in order."""
    return {scene.views[i].name: quality for i, quality in zip(scene.usable(), qualities, strict=True)}
