"""What the worker loop needs of compute, as a Protocol: a child process in real life (child.py), anything in a simulation."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from shared.contracts.manifest import StageReport
from shared.contracts.split import PartPlan

OnProgress = Callable[[float, str], Awaitable[None]]
OnFinished = Callable[[str], None]  # an output's name
Ask = Literal["run", "split", "run_part", "join"]  # the stage's methods


@dataclass(frozen=True)
class StageInfo:
    """What the worker knows of its stage without importing it."""

    name: str
    version: str
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rounds: tuple[str, ...] = ()  # none: it is not partitioned
    split_needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    join_needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    least_inputs: tuple[str, int] = ("*", 0)


@dataclass(frozen=True)
class ComputeTask:
    """One attempt of a step, or of a share of it, as the stage sees it."""

    workspace: Path
    params: Mapping[str, Any]
    hard_limit_s: float
    memory_limit_bytes: int
    reduction: int = 0
    tries: int = 1
    ask: Ask = "run"
    round: str = ""  # of a split or a part
    part: str = ""


@dataclass(frozen=True)
class Computed:
    """A stage's answer and what it cost."""

    report: StageReport
    peak_memory_bytes: int = 0
    parts: tuple[PartPlan, ...] = ()  # of a split


class Compute(Protocol):
    """Runs a stage, one task at a time."""

    async def describe(self) -> StageInfo:
        """Name, version, needs and rounds of the stage. Raises ChildDied when it cannot be imported."""

    async def run(self, task: ComputeTask, on_progress: OnProgress, on_finished: OnFinished) -> Computed:
        """Computes. Raises PermanentError, TransientError, OutOfMemory, StageTimeout or ChildDied; cancelling it ends the work.

        `on_finished` hears of outputs that the stage will not write again, some time before the end; of the others it need not.
        """

    async def close(self) -> None:
        """Ends whatever runs."""
