"""The mvs stage: cameras and undistorted photos in; depth maps and an oriented, coloured cloud out."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, JsonValue

from services.mvs.params import MvsParams
from shared.contracts.manifest import StageReport, Warning
from shared.errors import PermanentError
from shared.runtime.stage import Part
from shared.runtime.workspace import Workspace

if TYPE_CHECKING:  # native libraries load inside `run` alone, in the child process
    from services.mvs.rounds import Dense

MIN_POINTS = 500
LEAST_VIEWS = 32  # to be shared: fewer take a minute on two cores, and one replica would pay for the rounds
SPARSE_COMPLETENESS = 0.3  # below it a caller should know


class MvsStage:
    """Dense stereo on the CPU."""

    name: ClassVar[str] = "mvs"
    version: ClassVar[str] = "7"
    Params: ClassVar[type[BaseModel]] = MvsParams
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"sfm": ("cameras.json", "images/*", "masks/*", "sparse/*")}
    rounds: ClassVar[tuple[str, ...]] = ("coarse", "extent", "beyond", "extent-again", "depth", "geometric", "filtering", "fusion")
    split_needs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "sfm": ("cameras.json", "sparse/*"),
        "parts/coarse": ("scene.json", "effort.json"),
        "parts/extent": ("points.npy",),
        "parts/beyond": ("scene.json", "effort.json"),
    }
    join_needs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "sfm": ("cameras.json",),
        "parts/depth": ("scene.json",),
        "parts/filtering": ("depth/*", "quality.json"),
        "parts/fusion": ("cloud.npy",),
    }

    least_inputs: ClassVar[tuple[str, int]] = ("sfm/images/*", LEAST_VIEWS)

    def run(self, workspace: Workspace, params: MvsParams) -> StageReport:
        """Writes pointcloud.ply, depth/<stem>.npz and roi.json (README.md has their layouts)."""
        from services.mvs.rounds import reconstruct, write_depth_maps

        workspace.progress(0.0, "Choosing neighbours")
        params = reduced(params, workspace.reduction)
        dense = reconstruct(workspace.inputs("sfm"), workspace.scratch, params, workspace.progress)
        _write_cloud(dense, workspace)  # before the depth maps: it is the largest output, and goes up while they are written
        write_depth_maps(dense, _depth_folder(workspace), workspace.progress, workspace.finished)
        return _report(dense)

    def split(self, workspace: Workspace, params: MvsParams, round: str) -> tuple[Part, ...]:
        """Batches of neighbouring photos (partition.py); none for few photos."""
        from services.mvs.partition import parts_of

        return parts_of(workspace, reduced(params, workspace.reduction), round)

    def run_part(self, workspace: Workspace, params: MvsParams, round: str, part: str) -> None:
        """Writes what later rounds read of these photos (part_work.py)."""
        from services.mvs.part_work import compute_part

        compute_part(workspace, reduced(params, workspace.reduction), round, part)

    def join(self, workspace: Workspace, params: MvsParams) -> StageReport:
        """Writes what `run` writes, byte for byte."""
        from services.mvs.part_work import join_parts

        dense = join_parts(workspace, _depth_folder(workspace), reduced(params, workspace.reduction))
        _write_cloud(dense, workspace)
        return _report(dense)


def _depth_folder(workspace: Workspace) -> Path:
    folder = workspace.outputs / "depth"
    folder.mkdir(exist_ok=True)
    return folder


def _write_cloud(dense: "Dense", workspace: Workspace) -> None:
    """And the region. Raises PermanentError NO_SURFACE."""
    from services.mvs.fusion import write_ply

    if dense.points < MIN_POINTS:
        raise PermanentError("NO_SURFACE", report=_report(dense))
    (workspace.outputs / "roi.json").write_text(json.dumps(dense.scene.region.as_json(), indent=1))
    write_ply(dense.pieces, workspace.outputs / "pointcloud.ply")
    workspace.finished(workspace.outputs / "pointcloud.ply")


def _report(dense: "Dense") -> StageReport:
    engines = {name: version(name) for name in ("numba", "numpy", "pycolmap")}
    return StageReport(summary=_summary(dense), warnings=_warnings(dense), engines=engines)


def reduced(params: MvsParams, reduction: int) -> MvsParams:
    """Half the pixels along each side after a try that ran out of memory."""
    return params if reduction == 0 else params.model_copy(update={"max_image_size": max(320, params.max_image_size // 2)})


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _summary(dense: "Dense") -> dict[str, JsonValue]:
    qualities = dense.qualities
    completeness: dict[str, JsonValue] = {name: round(quality.completeness, 4) for name, quality in qualities.items()}
    return {
        "points": dense.points,
        "dense_points": dense.points,
        "views": len(dense.scene.views),
        "views_used": len(qualities),
        "orbit": dense.scene.region.orbit,
        "completeness": round(_mean([q.completeness for q in qualities.values()]), 4),
        "completeness_per_view": completeness,
        "mean_confidence": round(_mean([q.confidence for q in qualities.values()]), 4),
        "seconds_per_phase": {name: round(value, 2) for name, value in dense.seconds.items()},
    }


def _warnings(dense: "Dense") -> tuple[Warning, ...]:
    if _mean([q.completeness for q in dense.qualities.values()]) >= SPARSE_COMPLETENESS:
        return ()
    hint = "Use matt, textured surfaces, even light and more overlap."
    return (Warning(code="SPARSE_SURFACE", message="Large parts of the photos could not be matched; the model may have holes.", hint=hint),)
