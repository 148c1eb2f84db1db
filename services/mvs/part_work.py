"""What a part of a shared reconstruction computes: the same functions as `rounds.reconstruct`, on its own views."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from services.mvs.depth_maps import Scene, coarsest_map, expected_effort, geometric_map, photometric_map
from services.mvs.extent import closed_region, confirmed_points, wider_region
from services.mvs.fusion import delivered_by, filtered_map, thinned, together, write_depth_map
from services.mvs.handover import (
    COARSEST,
    FINAL,
    FITTED,
    PHOTOMETRIC,
    Kind,
    pack_map,
    read_clouds,
    read_points,
    read_qualities,
    unpack_map,
    visible_file,
    write_cloud,
    write_efforts,
    write_points,
    write_qualities,
    write_scene,
)
from services.mvs.params import MvsParams
from services.mvs.partition import FIRST, batches, looked_beyond, makers, reads_of, scene_of, with_related
from services.mvs.rounds import Dense, Result, Rounds, build_scene, named_qualities
from services.mvs.views import Floats
from shared.runtime.workspace import Workspace
from shared.thread_count import thread_count


class Share:
    """One part of a round: its own views of the scene, and what it hands on."""

    def __init__(self, workspace: Workspace, scene: Scene, round: str, part: str) -> None:
        self.workspace, self.scene, self.part = workspace, scene, part
        self.own = batches(scene, round)[part]
        self.outputs: Path = workspace.outputs

    def over_own(self, name: str, work: Callable[[int], Result]) -> list[Result]:
        """`work` of each of the part's views, in order."""
        with ThreadPoolExecutor(thread_count()) as pool:
            return Rounds(pool, self.own, self.workspace.progress, {})(name, work, 0.0, 1.0)

    def look(self, name: str) -> None:
        """Makes the part's coarsest maps, and hands them on with what they foretell of the finer ones."""
        self.over_own(name, lambda i: coarsest_map(self.scene, i))
        write_efforts([expected_effort(self.scene, i) for i in self.own], self.outputs)
        self.hand_on(COARSEST)

    def hand_on(self, kind: Kind) -> None:
        """The part's own maps of a kind go to whoever reads them."""
        self._on_all(lambda i: pack_map(self.scene, kind, i, self.outputs), self.own)

    def fetch_maps(self, round: str) -> None:
        """The maps that a round reads go to where `Scene.load` finds them."""
        maps = reads_of(round, self.workspace).maps
        if maps is None:
            return
        maker = makers(self.scene, maps.round)
        wanted = with_related(self.scene, self.own, maps.whose)
        self._on_all(lambda i: unpack_map(self.scene, maps.kind, i, self.workspace.part(maps.round, maker[i])), wanted)

    def points_of(self, round: str) -> list[Floats]:
        """What all parts of an earlier round confirmed."""
        return read_points(self.workspace, round, batches(self.scene, round))

    def state(self, scene: Scene) -> None:
        """The round's scene, once for all parts."""
        self.scene = scene
        if self.part == FIRST:
            write_scene(scene, self.outputs)

    def _on_all(self, work: Callable[[int], None], views: Iterable[int]) -> None:
        with ThreadPoolExecutor(thread_count()) as pool:
            list(pool.map(work, views))


def _coarse(share: Share) -> None:
    share.state(share.scene)
    share.look("Looking")
    for i in share.own:
        np.save(share.outputs / visible_file(i), share.scene.visible[i])


def _extent(share: Share) -> None:
    write_points(share.over_own("Locating", lambda i: confirmed_points(share.scene, i)), share.outputs)


def _beyond(share: Share) -> None:
    wider = wider_region(share.scene.region, share.points_of("extent"))
    maker = makers(share.scene, "coarse")
    seen = {i: np.load(share.workspace.part("coarse", maker[i]) / visible_file(i)) for i in share.own}
    visible = [seen.get(i, points) for i, points in enumerate(share.scene.visible)]
    share.state(replace(share.scene, region=wider, visible=visible))
    share.look("Looking beyond")


def _depth(share: Share) -> None:
    region = share.scene.region
    if looked_beyond(share.workspace):
        wider = scene_of(share.workspace, "beyond", share.scene.params).region
        region = closed_region(wider, region, share.points_of("extent-again"))
    share.state(replace(share.scene, region=region))
    share.over_own("Matching", lambda i: photometric_map(share.scene, i))
    share.hand_on(PHOTOMETRIC)


def _geometric(share: Share) -> None:
    share.over_own("Refining", lambda i: geometric_map(share.scene, i))
    share.hand_on(FINAL)


def _filtering(share: Share) -> None:
    depth_folder = share.outputs / "depth"
    depth_folder.mkdir(exist_ok=True)
    write_qualities(share.over_own("Filtering", lambda i: filtered_map(share.scene, i)), share.outputs)
    share.over_own("Writing", lambda i: write_depth_map(share.scene, i, depth_folder))
    share.hand_on(FITTED)


def _fusion(share: Share) -> None:
    clouds = share.over_own("Fusing", lambda i: delivered_by(share.scene, i))
    write_cloud(together(clouds), share.outputs)


_WORK: dict[str, Callable[[Share], None]] = {
    "coarse": _coarse,
    "extent": _extent,
    "beyond": _beyond,
    "extent-again": _extent,
    "depth": _depth,
    "geometric": _geometric,
    "filtering": _filtering,
    "fusion": _fusion,
}


def compute_part(workspace: Workspace, params: MvsParams, round: str, part: str) -> None:
    """A round's work on the views of one part."""
    scenes = reads_of(round, workspace).scenes
    sfm, scratch = workspace.inputs("sfm"), workspace.scratch
    scene = scene_of(workspace, scenes[0], params) if scenes else build_scene(sfm, scratch, params)
    share = Share(workspace, scene, round, part)
    share.fetch_maps(round)
    _WORK[round](share)


def join_parts(workspace: Workspace, depth_folder: Path, params: MvsParams) -> Dense:
    """What all parts made, as `reconstruct` returns it; depth maps are linked into `depth_folder`, of the step's outputs."""
    scene = scene_of(workspace, "depth", params)
    filtering, fusion = batches(scene, "filtering"), batches(scene, "fusion")
    for part in filtering:
        for depth in sorted((workspace.part("filtering", part) / "depth").iterdir()):
            linked = depth_folder / depth.name
            linked.hardlink_to(depth)
            workspace.finished(linked)
    pieces = thinned(read_clouds(workspace, fusion), params.max_points, params.seed)
    qualities = named_qualities(scene, read_qualities(workspace, filtering))
    return Dense(pieces, scene, qualities, {})
