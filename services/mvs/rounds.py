"""The rounds of the dense reconstruction over all views, one view per core."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TypeVar

from services.mvs.depth_maps import Scene, geometric_map, photometric_map
from services.mvs.fusion import Cloud, MapQuality, delivered_by, filtered_map, joined
from services.mvs.params import MvsParams
from services.mvs.region import Region, find_region
from services.mvs.sparse import sparse_points
from services.mvs.view_selection import select_views
from services.mvs.views import load_views

Result = TypeVar("Result")
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Dense:
    """What the rounds made. `qualities`: per view that has sources, by name. `seconds`: per round."""

    cloud: Cloud
    region: Region
    views: int
    qualities: dict[str, MapQuality]
    seconds: dict[str, float]


def thread_count() -> int:
    """Threads this process may use: MESHWORK_THREADS, else NUMBA_NUM_THREADS, else all cores it is allowed."""
    for variable in ("MESHWORK_THREADS", "NUMBA_NUM_THREADS"):
        value = os.environ.get(variable, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    return len(os.sched_getaffinity(0))


def build_scene(folder: Path, scratch: Path, params: MvsParams) -> Scene:
    """Reads sfm's outputs, chooses sources and the region."""
    views = load_views(folder)
    points, visible = sparse_points(folder / "sparse", views)
    selections = select_views(folder, views, params.views, params.check_views, params.min_angle_deg)
    region = find_region(views, points, params.seed) if params.region == "auto" else Region(False)
    scale = [max(1.0, max(view.width, view.height) / params.max_image_size) for view in views]
    return Scene(views, selections, visible, region, params, scratch, scale)


def reconstruct(folder: Path, scratch: Path, depth_folder: Path, params: MvsParams, progress: Progress) -> Dense:
    """Cameras and photos in `folder` to a cloud; depth maps go to `depth_folder`, everything passing to `scratch`."""
    seconds: dict[str, float] = {}
    started = monotonic()
    scene = build_scene(folder, scratch, params)
    usable = [i for i, selection in enumerate(scene.selections) if selection.sources]
    seconds["prepare"] = monotonic() - started
    with ThreadPoolExecutor(thread_count()) as pool:

        def over_views(name: str, work: Callable[[int], Result], low: float, high: float) -> list[Result]:
            begun = monotonic()
            results = []
            for done, result in enumerate(pool.map(work, usable), start=1):
                results.append(result)
                progress(low + (high - low) * done / len(usable), f"{name}: {done} of {len(usable)} photos")
            seconds[name.lower().replace(" ", "_")] = monotonic() - begun
            return results

        over_views("Matching", lambda i: photometric_map(scene, i), 0.02, 0.35)
        over_views("Refining", lambda i: geometric_map(scene, i), 0.35, 0.85)
        qualities = over_views("Filtering", lambda i: filtered_map(scene, i, depth_folder), 0.85, 0.93)
        parts = over_views("Fusing", lambda i: delivered_by(scene, i), 0.93, 0.99)
    cloud = joined(parts, params.max_points, params.seed)
    named = {scene.views[i].name: quality for i, quality in zip(usable, qualities, strict=True)}
    return Dense(cloud, scene.region, len(scene.views), named, seconds)
