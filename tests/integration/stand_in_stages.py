"""Six stages in no time for a whole mesh: what each makes are the outputs of the one before and its own name and params. A photo that is
called `hang-in-mvs.jpg` makes mvs hang; `tests.support.fake_stage` says what else there is.
"""

import json
from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from shared.contracts.manifest import StageReport
from shared.runtime.workspace import Workspace
from tests.support.fake_stage import MISCHIEF


class AnyParams(BaseModel):
    """Whatever the real stage is asked."""

    model_config = ConfigDict(extra="allow")


def line_of(stage: str, params: Mapping[str, object]) -> str:
    """What the stage adds."""
    return f"{stage} {json.dumps(params, sort_keys=True)}\n"


class StandIn:
    """Reads the stage before, if there is one."""

    name: ClassVar[str]
    version: ClassVar[str] = "stand-in"
    Params: ClassVar[type[BaseModel]] = AnyParams
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def run(self, workspace: Workspace, params: BaseModel) -> StageReport:
        for image in workspace.request().images:
            behaviour, _, stage = image.name.removesuffix(".jpg").partition("-in-")
            if stage == self.name:
                MISCHIEF[behaviour](workspace)  # type: ignore[index]
        earlier = "".join((workspace.inputs(stage) / "trail.txt").read_text() for stage in self.needs)
        (workspace.outputs / "trail.txt").write_text(earlier + line_of(self.name, params.model_dump()))
        return StageReport()


def after(earlier: type[StandIn] | None, stage: str) -> type[StandIn]:
    """The stand-in of a stage that reads what the one before made."""
    needs = {earlier.name: ("*",)} if earlier else {}
    return type(stage.capitalize(), (StandIn,), {"name": stage, "needs": needs})


Ingest = after(None, "ingest")
Segmentation = after(Ingest, "segmentation")
Sfm = after(Segmentation, "sfm")
Mvs = after(Sfm, "mvs")
Postprocess = after(Mvs, "postprocess")


class Export(StandIn):
    """Delivers the trail as the model, and the product's own report."""

    name = "export"
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"postprocess": ("*",)}

    def run(self, workspace: Workspace, params: BaseModel) -> StageReport:
        from services.export.report import build_report  # numpy: the other stages do without

        report = super().run(workspace, params)
        told = build_report(workspace.request(), workspace.earlier_steps(), {}, {}, {})
        (workspace.outputs / "trail.txt").rename(workspace.outputs / "model.glb")
        (workspace.outputs / "report.json").write_text(json.dumps(told))
        return report.model_copy(update={"job_report": told})
