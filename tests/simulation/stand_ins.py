"""What a simulation has in place of compute and of a caller's server."""

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.contracts.manifest import StageReport, Warning
from shared.contracts.split import PartPlan
from shared.errors import ChildDied, OutOfMemory, PermanentError, TransientError
from shared.http.errors import Unreachable
from shared.http.posting import Answer
from shared.runtime.compute import Computed, ComputeTask, OnFinished, OnProgress, StageInfo
from tests.simulation.network import PROCESS, Network

STEPS = ("ingest", "sfm", "export")
PARTITIONED = "sfm"
Parts = Mapping[str, tuple[tuple[str, ...], ...]]  # of each round, of each kind of job
FEW_PARTS: Parts = {"first": ((), ("a", "b"), ("a", "b", "c"), ("a", "b")), "second": ((), ("x",), ("x", "y"), ())}
MANY_PARTS: Parts = {"first": (tuple("abcdefghijklmnop"),) * 4, "second": (tuple("abcdefghijklmnop"),) * 4}
CROWD = 8  # workers who share those
LINEAGE = "lineage.json"
RESULT = "model.glb"
_TELLS_PROGRESS = 0.3  # share of computations
_FINISHES_EARLY = 0.5  # the same, where stages do
MADE_BY = "MADE_BY"  # the warning that each step gives
_CHANGES_WHAT_IS_FINISHED = 0.2  # of those that are in trouble


@dataclass
class SimulatedCompute:
    """A stage that reads what every earlier step made, and writes which computations made it: `[[step, nonce], …]`."""

    stage: str
    rng: random.Random
    trouble: float = 0.0
    crowd: bool = False
    early: bool = False
    begun: int = 0

    @property
    def parts(self) -> Parts:
        """By round."""
        return MANY_PARTS if self.crowd else FEW_PARTS

    async def describe(self) -> StageInfo:
        needs = dict.fromkeys(STEPS[: STEPS.index(self.stage)], ("*",))
        if self.stage != PARTITIONED:
            return StageInfo(self.stage, "1", needs)
        return StageInfo(self.stage, "1", needs, tuple(self.parts), needs, needs | {f"parts/{round}": ("*",) for round in self.parts})

    async def run(self, task: ComputeTask, on_progress: OnProgress, on_finished: OnFinished) -> Computed:
        self.begun += 1
        await asyncio.sleep(1.0 if self.crowd else self.rng.choice((0.01, 1.0, 5.0, 40.0)))  # a crowd ends a round's last parts at once
        if self.rng.random() < _TELLS_PROGRESS:
            await on_progress(0.5, "half")
        if early := self.early and task.ask != "split" and self.rng.random() < _FINISHES_EARLY:
            self._write(task, (LINEAGE,))
            on_finished(LINEAGE)
        await asyncio.sleep(1.0 if self.crowd else self.rng.choice((0.01, 1.0, 5.0)))
        self._fail_perhaps(task)
        if task.ask == "split":
            return Computed(StageReport(), parts=_plans(self.parts[task.round][_kind(task)]))
        last = self.stage == STEPS[-1]
        self._write(task, (*([] if early else [LINEAGE]), *([RESULT] if last else [])))
        return Computed(StageReport(warnings=_told_of(task), job_report={"verdict": "pass"} if last else None))

    async def close(self) -> None:
        pass

    def _write(self, task: ComputeTask, names: Sequence[str]) -> None:
        outputs, made = task.workspace / "outputs", json.dumps(self._made(task))
        outputs.mkdir(exist_ok=True)
        for name in names:
            (outputs / name).write_text(made)

    def _made(self, task: ComputeTask) -> Any:
        """Of a step its lineage; of a part that of its inputs, what it read of the round before, and a nonce."""
        lineage, nonce = self._lineage(task.workspace / "inputs"), f"{self.rng.getrandbits(64):016x}"
        if task.ask == "run_part":
            return {"lineage": lineage, "read": _nonces(_read_parts(task)), "nonce": nonce, "reduction": task.reduction}
        if task.ask == "join" and not self._fit_together(task, lineage):
            return [["mixed parts", ""], *lineage]
        return [*lineage, [self.stage, nonce]]

    def _lineage(self, inputs: Path) -> list[list[str]]:
        """The previous step's, which every earlier step's begins; otherwise these inputs are of two chains."""
        told = [json.loads((inputs / step / LINEAGE).read_text()) for step in STEPS[: STEPS.index(self.stage)]]
        longest = told[-1] if told else []
        return longest if all(longest[: len(each)] == each for each in told) else [["mixed", ""], *longest]

    def _fit_together(self, task: ComputeTask, lineage: list[list[str]]) -> bool:
        """Every part of every round is there, of the same inputs and resolution; later rounds read those deliveries that are there."""
        parts = _read_parts(task)
        nonces = _nonces(parts)
        return (
            set(parts) == {f"{round}/{name}" for round, kinds in self.parts.items() for name in kinds[_kind(task)]}
            and all(part["reduction"] == task.reduction for part in parts.values())
            and all(part["lineage"] == lineage and part["read"].items() <= nonces.items() for part in parts.values())
            and all(bool(part["read"]) == name.startswith("second/") for name, part in parts.items())
        )

    def _fail_perhaps(self, task: ComputeTask) -> None:
        if self.rng.random() >= self.trouble:
            return
        if (task.workspace / "outputs" / LINEAGE).is_file() and self.rng.random() < _CHANGES_WHAT_IS_FINISHED:
            self._write(task, (LINEAGE,))  # with another nonce: where nobody had looked at it yet, this is what it is
            return
        kind = self.rng.choice((TransientError, ChildDied, OutOfMemory, PermanentError))
        raise PermanentError("NO_SURFACE") if kind is PermanentError else kind("a simulated failure")


def _kind(task: ComputeTask) -> int:
    """How a job's step is divided: a quarter of them not at all. By its request alone, as `split` is pure."""
    return hashlib.sha256((task.workspace / "request.json").read_bytes()).digest()[0] % 4


def _plans(names: Sequence[str]) -> tuple[PartPlan, ...]:
    """The second round's read one or all parts of the first's."""
    reads: dict[str, tuple[str, ...]] = {"x": ("a",)}
    return tuple(PartPlan(name=name, parts=reads.get(name), needs=None) for name in names)


def _told_of(task: ComputeTask) -> tuple[Warning, ...]:
    """Of a step, which computation made it; of a part nothing."""
    if task.ask == "run_part":
        return ()
    step, nonce = json.loads((task.workspace / "outputs" / LINEAGE).read_text())[-1]
    return (Warning(code=MADE_BY, message=f"{step} {nonce}"),)


def _read_parts(task: ComputeTask) -> dict[str, dict[str, Any]]:
    """By `<round>/<part>`: what the workspace has of parts."""
    root = task.workspace / "parts"
    return {str(path.parent.relative_to(root)): json.loads(path.read_text()) for path in sorted(root.rglob(LINEAGE))}


def _nonces(parts: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    return {name: part["nonce"] for name, part in parts.items()}


@dataclass(frozen=True)
class Call:
    """One webhook as the caller's server saw it."""

    at: float
    by: str
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
    tries: Counter[str] = field(default_factory=Counter)  # by webhook id; those that did not arrive too

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        await self.network.pass_by()
        self.tries[headers["webhook-id"]] += 1
        fate = self.rng.random()
        if fate < self.deaf / 3:
            raise Unreachable("nobody there")
        status = 500 if fate < self.deaf else 204
        self.calls.append(Call(asyncio.get_running_loop().time(), PROCESS.get(), headers["webhook-id"], body, status))
        await self.network.pass_by()
        return Answer(status)

    async def close(self) -> None:
        pass
