"""Six stages that do real artifact work in no time: each checks what it reads, and what it writes depends on it.

A job's trail is a chain of sha256 over its id and the stages that it passed: whoever knows the id knows what must come out.
"""

import hashlib
import os
import time
from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from shared.contracts.manifest import StageReport
from shared.contracts.routing import STAGES
from shared.runtime.workspace import Workspace

PAYLOAD_BYTES = int(os.environ.get("STAND_IN_PAYLOAD_BYTES", "65536"))


def trail_after(job_id: str, stage: str) -> str:
    """What the stage must have written for this job."""
    trail = job_id
    for name in STAGES[: STAGES.index(stage) + 1]:
        trail = hashlib.sha256(f"{trail} {name}".encode()).hexdigest()
    return trail


def payload_of(trail: str) -> bytes:
    """Bytes that only this trail has."""
    return hashlib.shake_256(trail.encode()).digest(PAYLOAD_BYTES)


class AnyParams(BaseModel):
    """Whatever the real stage is asked."""

    model_config = ConfigDict(extra="allow")


class StandIn:
    """Reads the previous stage's trail and payload, verifies both, writes its own."""

    name: ClassVar[str]
    version: ClassVar[str] = os.environ.get("STAND_IN_VERSION", "stand-in")
    Params: ClassVar[type[BaseModel]] = AnyParams
    needs: ClassVar[Mapping[str, tuple[str, ...]]]
    lingers_s: ClassVar[float] = 0.0  # over what it has finished, which goes up meanwhile

    def run(self, workspace: Workspace, params: BaseModel) -> StageReport:
        """Raises ValueError for inputs of another job, of another stage, or damaged."""
        job_id = workspace.request().job_id
        for stage in self.needs:
            trail = (workspace.inputs(stage) / "trail.txt").read_text()
            if trail != trail_after(job_id, stage) or (workspace.inputs(stage) / "payload.bin").read_bytes() != payload_of(trail):
                raise ValueError(f"{stage} handed on something else than it made")
        workspace.progress(0.5, "half done")
        trail = trail_after(job_id, self.name)
        (workspace.outputs / "payload.bin").write_bytes(payload_of(trail))
        workspace.finished(workspace.outputs / "payload.bin")
        time.sleep(self.lingers_s)
        (workspace.outputs / "trail.txt").write_text(trail)
        return StageReport(summary={"stand_in": True})


class Ingest(StandIn):
    """Fetches nothing."""

    name = "ingest"
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {}


class Segmentation(StandIn):
    name = "segmentation"
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"ingest": ("*",)}


class Sfm(StandIn):
    name = "sfm"
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"ingest": ("*",), "segmentation": ("*",)}


class Mvs(StandIn):
    name = "mvs"
    lingers_s = 0.05
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"sfm": ("*",)}


class Postprocess(StandIn):
    name = "postprocess"
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"sfm": ("*",), "mvs": ("*",)}


class Export(StandIn):
    """Delivers the trail as the model."""

    name = "export"
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"postprocess": ("*",)}

    def run(self, workspace: Workspace, params: BaseModel) -> StageReport:
        report = super().run(workspace, params)
        (workspace.outputs / "model.glb").write_text(trail_after(workspace.request().job_id, self.name))
        (workspace.outputs / "report.json").write_text('{"verdict": "pass"}')
        return report.model_copy(update={"job_report": {"verdict": "pass"}})
