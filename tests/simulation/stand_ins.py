"""What a simulation has in place of compute and of a caller's server."""

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.contracts.manifest import StageReport
from shared.errors import ChildDied, OutOfMemory, PermanentError, TransientError
from shared.http.errors import Unreachable
from shared.http.posting import Answer
from shared.runtime.compute import Computed, ComputeTask, OnProgress, StageInfo
from shared.runtime.workfolder import WorkFolder
from tests.simulation.network import Network

STEPS = ("ingest", "sfm", "export")
LINEAGE = "lineage.json"
RESULT = "model.glb"
_TELLS_PROGRESS = 0.3  # share of computations


class SimulatedFolder(WorkFolder):
    """Workspaces without locks: nobody else looks at them."""

    def _open(self) -> None:
        self.path = self._parent / self._stage
        self.path.mkdir(parents=True, exist_ok=True)


@dataclass
class SimulatedCompute:
    """A stage that reads what every earlier step made, and writes which computations made it: `[[step, nonce], …]`."""

    stage: str
    rng: random.Random
    trouble: float = 0.0

    async def describe(self) -> StageInfo:
        return StageInfo(self.stage, "1", dict.fromkeys(STEPS[: STEPS.index(self.stage)], ("*",)))

    async def run(self, task: ComputeTask, on_progress: OnProgress) -> Computed:
        await asyncio.sleep(self.rng.choice((0.01, 1.0, 5.0, 40.0)))
        if self.rng.random() < _TELLS_PROGRESS:
            await on_progress(0.5, "half")
        await asyncio.sleep(self.rng.choice((0.01, 1.0, 5.0)))
        self._fail_perhaps()
        last = self.stage == STEPS[-1]
        made = json.dumps([*self._lineage(task.workspace / "inputs"), [self.stage, f"{self.rng.getrandbits(64):016x}"]])
        outputs = task.workspace / "outputs"
        outputs.mkdir(exist_ok=True)
        for name in (LINEAGE, RESULT) if last else (LINEAGE,):
            (outputs / name).write_text(made)
        return Computed(StageReport(job_report={"verdict": "pass"} if last else None))

    async def close(self) -> None:
        pass

    def _lineage(self, inputs: Path) -> list[list[str]]:
        """The previous step's, which every earlier step's begins; otherwise these inputs are of two chains."""
        told = [json.loads((inputs / step / LINEAGE).read_text()) for step in STEPS[: STEPS.index(self.stage)]]
        longest = told[-1] if told else []
        return longest if all(longest[: len(each)] == each for each in told) else [["mixed", ""], *longest]

    def _fail_perhaps(self) -> None:
        if self.rng.random() >= self.trouble:
            return
        kind = self.rng.choice((TransientError, ChildDied, OutOfMemory, PermanentError))
        raise PermanentError("NO_SURFACE") if kind is PermanentError else kind("a simulated failure")


@dataclass(frozen=True)
class Call:
    """One webhook as the caller's server saw it."""

    at: float
    webhook_id: str
    body: bytes
    answered: int


@dataclass
class Receiver:
    """The caller's server: some answers are errors, some calls never arrive or never return."""

    network: Network
    rng: random.Random
    deaf: float = 0.0
    calls: list[Call] = field(default_factory=list)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        await self.network.pass_by()
        fate = self.rng.random()
        if fate < self.deaf / 3:
            raise Unreachable("nobody there")
        status = 500 if fate < self.deaf else 204
        self.calls.append(Call(asyncio.get_running_loop().time(), headers["webhook-id"], body, status))
        await self.network.pass_by()
        return Answer(status)

    async def close(self) -> None:
        pass


def workspace_root(folder: Path) -> Path:
    """Where a run keeps its workers' folders."""
    root = folder / "work"
    root.mkdir(parents=True, exist_ok=True)
    return root
