"""How a reconstruction is shared: batches of views, and what each batch reads in each round.

coarse            the coarsest maps                            extent         the object in them
beyond            the same in a wider region, where needed     extent-again   the object in those
depth             the levels up to the last but one            geometric      the finest, with the neighbours' maps
filtering         what neighbours confirm                      fusion         who delivers it

A round ends where the next one needs the neighbours' maps, or what all views found. Each is a share of the work that must be shared, or
sixteen replicas would wait for one.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Literal

from services.mvs.depth_maps import Scene
from services.mvs.extent import wider_region
from services.mvs.handover import (
    COARSEST,
    FINAL,
    FITTED,
    PHOTOMETRIC,
    POINTS,
    SCENE,
    Kind,
    read_efforts,
    read_points,
    read_scene,
    visible_file,
)
from services.mvs.params import MvsParams
from services.mvs.rounds import build_scene
from services.mvs.stage import LEAST_VIEWS
from shared.batches import batches_of
from shared.runtime.stage import Part
from shared.runtime.workspace import Workspace

FIRST = "views-000"  # the part that also writes what its round decided
# Where a round computes much and reads little, each photo is a part: a round lasts as long as its slowest part, and four neighbours may
# take a quarter longer than four others. Elsewhere the sparse model or neighbours' maps would be read, and unpacked, too often.
VIEWS_PER_PART = {"coarse": 4, "extent": 4, "beyond": 4, "extent-again": 4, "depth": 1, "geometric": 1, "filtering": 4, "fusion": 4}
ENOUGH_PARTS = 128  # of a round: of more photos than that, a part has several, up to as many as in other rounds
MOST_VIEWS_PER_PART = 4
Whose = Literal["own", "sources", "checks"]


@dataclass(frozen=True)
class Maps:
    """Maps that a round reads: of which earlier round, and of which views beside a part's own."""

    round: str
    kind: Kind
    whose: Whose


@dataclass(frozen=True)
class Reads:
    """What a round's parts read. `scenes`, `points`: of which earlier rounds, everyone's; `photos`: of which views, and a part's own
    masks; `sparse`: the sparse points that a part's own views see.
    """

    scenes: tuple[str, ...] = ()
    photos: Whose | None = None
    maps: Maps | None = None
    points: str | None = None
    sparse: bool = False


_READS = {
    "coarse": Reads((), "sources"),
    "extent": Reads(("coarse",), None, Maps("coarse", COARSEST, "checks")),
    "beyond": Reads(("coarse",), "sources", None, "extent", True),
    "extent-again": Reads(("beyond",), None, Maps("beyond", COARSEST, "checks")),
    "depth": Reads(("coarse",), "sources", Maps("coarse", COARSEST, "own")),
    "geometric": Reads(("depth",), "sources", Maps("depth", PHOTOMETRIC, "sources")),
    "filtering": Reads(("depth",), None, Maps("geometric", FINAL, "checks")),
    "fusion": Reads(("depth",), "own", Maps("filtering", FITTED, "checks")),
}
_DEPTH_BEYOND = Reads(("coarse", "beyond"), "sources", Maps("beyond", COARSEST, "own"), "extent-again")


def batches(scene: Scene, round: str) -> dict[str, tuple[int, ...]]:
    """The views of each part of a round, by its name: neighbours in the order of their names, as near to equal in number as can be."""
    views = scene.usable()
    most = max(VIEWS_PER_PART[round], min(MOST_VIEWS_PER_PART, -(-len(views) // ENOUGH_PARTS)))
    return {f"views-{k:03d}": tuple(own) for k, own in enumerate(batches_of(views, most))}


def makers(scene: Scene, round: str) -> dict[int, str]:
    """Which part of a round has each view."""
    return {i: part for part, own in batches(scene, round).items() for i in own}


def with_related(scene: Scene, own: Sequence[int], whose: Whose) -> tuple[int, ...]:
    """The part's own views, and those that they are compared with or checked against."""
    related = [] if whose == "own" else [k for i in own for k in getattr(scene.selections[i], whose)]
    return tuple(sorted({*own, *related}))


def reads_of(round: str, workspace: Workspace) -> Reads:
    """What a round's parts read; for the depth it depends on whether a wider region was looked into."""
    return _DEPTH_BEYOND if round == "depth" and looked_beyond(workspace) else _READS[round]


def looked_beyond(workspace: Workspace) -> bool:
    """Whether the round `beyond` had parts."""
    return workspace.part("beyond", FIRST).is_dir()


def scene_of(workspace: Workspace, round: str, params: MvsParams) -> Scene:
    """The scene as a round's first part left it."""
    return read_scene(workspace.part(round, FIRST), workspace.inputs("sfm"), workspace.scratch, params)


def parts_of(workspace: Workspace, params: MvsParams, round: str) -> tuple[Part, ...]:
    """The round's parts; none where sharing does not pay, or where the region need not be looked beyond."""
    if round == "coarse":
        scene = build_scene(workspace.inputs("sfm"), workspace.scratch, params)
        if len(scene.usable()) < LEAST_VIEWS:
            return ()
    else:
        scene = scene_of(workspace, "coarse", params)
    if round in ("extent", "beyond", "extent-again") and not _is_needed(workspace, scene, round):
        return ()
    reads, efforts = reads_of(round, workspace), _efforts(workspace, scene, round)
    return tuple(
        _part(name, scene, own, workspace.inputs("sfm"), reads, sum(efforts[i] for i in own)) for name, own in batches(scene, round).items()
    )


def _efforts(workspace: Workspace, scene: Scene, round: str) -> dict[int, float]:
    """By view: what the coarsest maps foretell where a round makes finer ones, the same for all elsewhere."""
    views = scene.usable()
    if round not in ("depth", "geometric"):
        return dict.fromkeys(views, 1.0)
    looked = "beyond" if looked_beyond(workspace) else "coarse"
    return dict(zip(views, read_efforts(workspace, looked, batches(scene, looked)), strict=True))


def _is_needed(workspace: Workspace, scene: Scene, round: str) -> bool:
    """Without a box every pixel counts already, and a box that the object does not touch is the last one."""
    if scene.region.box is None or round == "extent":
        return scene.region.box is not None
    if round == "extent-again":
        return looked_beyond(workspace)
    return wider_region(scene.region, read_points(workspace, "extent", batches(scene, "extent"))) is not scene.region


def _part(name: str, scene: Scene, own: tuple[int, ...], sfm: Path, reads: Reads, weight: float) -> Part:
    needs: dict[str, list[str]] = defaultdict(list, sfm=["cameras.json"])
    if not reads.scenes:
        needs["sfm"].append("sparse/*")
    if reads.photos is not None:
        needs["sfm"] += _photos(scene, own, with_related(scene, own, reads.photos), sfm)
    for round in reads.scenes:
        needs[f"parts/{round}"].append(SCENE)
    if reads.maps is not None:
        needs[f"parts/{reads.maps.round}"] += [reads.maps.kind.file(i) for i in with_related(scene, own, reads.maps.whose)]
    if reads.points is not None:
        needs[f"parts/{reads.points}"].append(POINTS)
    if reads.sparse:
        needs["parts/coarse"] += [visible_file(i) for i in own]
    return Part(name, weight, {source: tuple(patterns) for source, patterns in needs.items()}, parts=())


def _photos(scene: Scene, own: Iterable[int], shown: Iterable[int], sfm: Path) -> list[str]:
    images = [scene.views[i].image for i in shown]
    masks = [mask for mask in (scene.views[i].mask for i in own) if mask is not None]
    return [escape(path.relative_to(sfm).as_posix()) for path in [*images, *masks]]
