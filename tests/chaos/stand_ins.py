"""Six stages that do real artifact work in no time: each checks what it reads, and what it writes depends on it.

A job's trail is a chain of sha256 over its id and the stages that it passed: whoever knows the id knows what must come out. One stage is
divided into parts, in two rounds; each part has a trail of its own. `STAND_IN_PARTED=0`: none is, as in most jobs.

A job whose first photo is called `sfm-fails-once.jpg` has sfm fail at its first try (`all-fails-once.jpg`: every stage), one with
`sfm-fails-always.jpg` at every try, one with `sfm-fails-for-good.jpg` for a reason that no try changes.
"""

import hashlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from shared.contracts.manifest import StageReport
from shared.contracts.routing import STAGES
from shared.errors import PermanentError, TransientError
from shared.runtime.stage import Part
from shared.runtime.workspace import Workspace
from tests.chaos.fault_points import FOLDER_VARIABLE, HANG

PAYLOAD_BYTES = int(os.environ.get("STAND_IN_PAYLOAD_BYTES", "65536"))
PARTED = os.environ.get("STAND_IN_PARTED", "1") != "0"
# The second round: one part reads what a single part of the first made, the other reads all of them.
ROUNDS = {"first": (Part("a", weight=2.0), Part("b")), "second": (Part("x", parts=("a",)), Part("y"))}


def trail_after(job_id: str, stage: str) -> str:
    """What the stage must have written for this job."""
    trail = job_id
    for name in STAGES[: STAGES.index(stage) + 1]:
        trail = hashlib.sha256(f"{trail} {name}".encode()).hexdigest()
    return trail


def trail_of_part(job_id: str, round: str, part: str) -> str:
    """What a part must have written for this job."""
    return hashlib.sha256(f"{job_id} {round} {part}".encode()).hexdigest()


def payload_of(trail: str) -> bytes:
    """Bytes that only this trail has."""
    return hashlib.shake_256(trail.encode()).digest(PAYLOAD_BYTES)


def check(folder: Path, trail: str) -> None:
    """Raises ValueError unless the folder has this trail, and its payload."""
    if (folder / "trail.txt").read_text() != trail or (folder / "payload.bin").read_bytes() != payload_of(trail):
        raise ValueError(f"{folder.name} handed on something else than it made")


def hang_if_asked(stage: str) -> None:
    """Stops this process (SIGSTOP), once, where a test armed it: until it is resumed or killed."""
    try:
        (Path(os.environ[FOLDER_VARIABLE]) / stage / HANG).unlink()
    except (KeyError, FileNotFoundError):
        return
    os.kill(os.getpid(), signal.SIGSTOP)


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
        self.check_inputs(workspace)
        workspace.progress(0.5, "half done")
        self.write(workspace, trail_after(workspace.request().job_id, self.name))
        return StageReport(summary={"stand_in": True})

    def check_inputs(self, workspace: Workspace) -> None:
        """Of the stages before; where a failure is asked for, here it is."""
        self.fail_if_asked(workspace)
        for stage in self.needs:
            check(workspace.inputs(stage), trail_after(workspace.request().job_id, stage))

    def fail_if_asked(self, workspace: Workspace) -> None:
        who, _, how = workspace.request().images[0].name.removesuffix(".jpg").partition("-fails-")
        if not how or who not in {self.name, "all"}:
            return
        if how == "for-good":
            raise PermanentError("NO_SURFACE")
        if how == "always" or workspace.tries == 1:
            raise TransientError("it was asked for")

    def write(self, workspace: Workspace, trail: str) -> None:
        """The payload goes up while the rest is still to come."""
        (workspace.outputs / "payload.bin").write_bytes(payload_of(trail))
        workspace.finished(workspace.outputs / "payload.bin")
        time.sleep(self.lingers_s)
        (workspace.outputs / "trail.txt").write_text(trail)


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
    """Divided into parts: each checks the inputs and the parts that it reads, and so does their join."""

    name = "mvs"
    lingers_s = 0.05
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"sfm": ("*",)}
    rounds: ClassVar[tuple[str, ...]] = tuple(ROUNDS) if PARTED else ()
    split_needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"sfm": ("*",)}
    join_needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"sfm": ("*",)} | {f"parts/{round}": ("*",) for round in ROUNDS}

    def split(self, workspace: Workspace, params: BaseModel, round: str) -> tuple[Part, ...]:
        self.check_inputs(workspace)
        return ROUNDS[round]

    def run_part(self, workspace: Workspace, params: BaseModel, round: str, part: str) -> None:
        hang_if_asked(self.name)
        self.check_inputs(workspace)
        if round == "second":
            (plan,) = (plan for plan in ROUNDS[round] if plan.name == part)
            self.check_parts(workspace, "first", plan.parts)
        self.write(workspace, trail_of_part(workspace.request().job_id, round, part))

    def join(self, workspace: Workspace, params: BaseModel) -> StageReport:
        for round in ROUNDS:
            self.check_parts(workspace, round)
        return self.run(workspace, params)

    def check_parts(self, workspace: Workspace, round: str, names: Sequence[str] | None = None) -> None:
        """Those named of a round, or all of them."""
        for part in ROUNDS[round]:
            if names is None or part.name in names:
                check(workspace.part(round, part.name), trail_of_part(workspace.request().job_id, round, part.name))


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
