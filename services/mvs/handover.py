"""What the parts of a shared reconstruction hand each other, as files: the scene as decided so far, and maps without their empty pixels.

Nothing is rounded: whoever computes in one go and whoever shares the work gets the same bytes.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.mvs.depth_maps import Scene
from services.mvs.fusion import Cloud, MapQuality
from services.mvs.params import MvsParams
from services.mvs.region import Region
from services.mvs.view_selection import Selection
from services.mvs.views import Floats, load_views
from shared.runtime.workspace import Workspace

SCENE = "scene.json"  # of a round's first part
POINTS = "points.npy"
QUALITY = "quality.json"
EFFORT = "effort.json"
CLOUD = "cloud.npy"


@dataclass(frozen=True)
class Kind:
    """A map between rounds. `paired`: with the two best sources of each pixel."""

    name: str
    paired: bool = False

    def file(self, index: int) -> str:
        """What a view's map is called among a part's outputs."""
        return f"{self.name}_{index:04d}.npz"


COARSEST, PHOTOMETRIC, FINAL, FITTED = Kind("coarsest", True), Kind("photometric", True), Kind("final"), Kind("fitted")


def write_scene(scene: Scene, folder: Path) -> None:
    """Selections and region; what else a scene holds is in sfm's outputs and the params."""
    selections = [[list(s.sources), list(s.checks), s.near, s.far] for s in scene.selections]
    (folder / SCENE).write_text(json.dumps({"selections": selections, "region": scene.region.as_json()}))


def read_scene(stated: Path, sfm: Path, scratch: Path, params: MvsParams) -> Scene:
    """The scene that `write_scene` put into the folder `stated`, without the sparse points that views see."""
    said = json.loads((stated / SCENE).read_text())
    selections = [Selection(tuple(sources), tuple(checks), near, far) for sources, checks, near, far in said["selections"]]
    views = load_views(sfm)
    return Scene(views, selections, [np.empty((0, 3))] * len(views), Region.from_json(said["region"]), params, scratch)


def pack_map(scene: Scene, kind: Kind, index: int, folder: Path) -> None:
    """A view's map from `scratch` into the folder. Where a map has no depth, nobody reads what else it says there."""
    planes = np.load(scene.path(kind.name, index))
    there = planes[..., 0] != 0
    kept = np.compress(there.ravel(), planes.reshape(-1, planes.shape[2]), axis=0)  # a tenth of the time that planes[there] takes
    packed = {"there": np.packbits(there), "planes": kept, "shape": np.array(planes.shape)}
    if kind.paired:
        packed["best"] = np.load(scene.path("best", index))
    np.savez(folder / kind.file(index), allow_pickle=False, **packed)


def unpack_map(scene: Scene, kind: Kind, index: int, folder: Path) -> None:
    """Where `Scene.load` finds it."""
    with np.load(folder / kind.file(index)) as packed:
        planes = np.zeros(tuple(packed["shape"]), np.float32)
        there = np.unpackbits(packed["there"], count=planes[..., 0].size).view(np.bool_)
        pixel = np.dtype((np.void, planes.itemsize * planes.shape[2]))  # whole pixels at once, for the same reason
        np.place(planes.view(pixel).ravel(), there, packed["planes"].view(pixel))
        if kind.paired:
            np.save(scene.path("best", index), packed["best"])
    np.save(scene.path(kind.name, index), planes)


def visible_file(index: int) -> str:
    """What the sparse points that a view sees are called: n×3, world."""
    return f"visible_{index:04d}.npy"


def write_points(parts: list[Floats], folder: Path) -> None:
    """World points of a part's views, n×3 each, one after the other."""
    np.save(folder / POINTS, np.concatenate(parts))


def read_points(workspace: Workspace, round: str, names: Iterable[str]) -> list[Floats]:
    """Those of a round's parts, in the order of their names."""
    return [np.load(workspace.part(round, name) / POINTS) for name in names]


def write_efforts(efforts: Iterable[float], folder: Path) -> None:
    """Of a part's views: how long the finer levels of each will take, beside the others'."""
    (folder / EFFORT).write_text(json.dumps(list(efforts)))


def read_efforts(workspace: Workspace, round: str, names: Iterable[str]) -> list[float]:
    """Of all views, in order."""
    return [effort for name in names for effort in json.loads((workspace.part(round, name) / EFFORT).read_text())]


def write_qualities(qualities: list[MapQuality], folder: Path) -> None:
    """Of a part's views."""
    (folder / QUALITY).write_text(json.dumps([[quality.completeness, quality.confidence] for quality in qualities]))


def read_qualities(workspace: Workspace, names: Iterable[str]) -> list[MapQuality]:
    """Of all views, in order."""
    stated = [json.loads((workspace.part("filtering", name) / QUALITY).read_text()) for name in names]
    return [MapQuality(*numbers) for part in stated for numbers in part]


def write_cloud(cloud: Cloud, folder: Path) -> None:
    """What a part's views deliver."""
    np.save(folder / CLOUD, cloud, allow_pickle=False)


def read_clouds(workspace: Workspace, names: Iterable[str]) -> list[Cloud]:
    """What all parts' views deliver, in order."""
    return [np.load(workspace.part("fusion", name) / CLOUD, mmap_mode="r") for name in names]
