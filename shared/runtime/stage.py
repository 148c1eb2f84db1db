"""What a stage is: a function from a local folder and typed params to a report; and one whose work can be shared among replicas."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from shared.contracts.manifest import StageReport
from shared.runtime.workspace import Workspace

_PART_NAME = re.compile(r"[a-z0-9-]{1,40}")


class Stage(Protocol):
    """A step of a reconstruction. Knows no broker and no store."""

    name: ClassVar[str]
    version: ClassVar[str]  # bump when outputs change: it is part of the digest
    Params: ClassVar[type[BaseModel]]  # services/<stage>/params.py
    # stage -> glob patterns of its outputs that this one reads; "images" (uploads) as a stage of its own.
    # A stage that the pipeline does not have is skipped; of "postprocess|mvs" the first that it has is read.
    needs: ClassVar[Mapping[str, tuple[str, ...]]]

    def run(self, workspace: Workspace, params: Any) -> StageReport:
        """Reads `workspace.inputs`, writes `workspace.outputs`. Raises PermanentError or TransientError."""


@dataclass(frozen=True)
class Part:
    """A share of a round's work, for any replica. `name`: `[a-z0-9-]{1,40}`, unique in its round. Raises ValueError.

    It reads all of those parts of the previous round that `parts` names, and of any earlier round what `needs` says ("parts/<round>").
    """

    name: str
    weight: float = 1.0  # share of the round's work: the heaviest go first, and progress counts by it
    needs: Mapping[str, tuple[str, ...]] | None = None  # fewer inputs than the stage's `needs`; None: all of them
    parts: tuple[str, ...] | None = None  # of the previous round; None: all

    def __post_init__(self) -> None:
        if not _PART_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name for a part")
        if not self.weight > 0:
            raise ValueError(f"part {self.name} weighs {self.weight}")


class PartitionedStage(Stage, Protocol):
    """A stage whose work any number of replicas can share: rounds of parts, then a join.

    `run` must give the same outputs as `split`, `run_part` and `join` do: what is worth splitting depends on the data alone, never on
    how many replicas there are.
    """

    rounds: ClassVar[tuple[str, ...]]  # names like a part's: ("depth", "geometric")
    # As `needs`, of which they are a share: what `split` and `join` read. "parts/<round>": which outputs of every part of that round.
    split_needs: ClassVar[Mapping[str, tuple[str, ...]]]
    join_needs: ClassVar[Mapping[str, tuple[str, ...]]]
    # ("sfm/images/*", 32): where fewer of the inputs that it needs match, the step is never worth dividing, and `split` is not asked.
    least_inputs: ClassVar[tuple[str, int]]

    def split(self, workspace: Workspace, params: Any, round: str) -> tuple[Part, ...]:
        """The parts of a round. Pure, and cheap: it reads `split_needs`, of rounds before this one alone.

        Fewer than two in the first round: not worth it, `run` is called instead. None in a later one: that round is passed over.
        """

    def run_part(self, workspace: Workspace, params: Any, round: str, part: str) -> None:
        """Reads what the part needs, `workspace.part(earlier round, name)` too; writes `workspace.outputs`. Raises as `run` does."""

    def join(self, workspace: Workspace, params: Any) -> StageReport:
        """Reads `join_needs`; writes `workspace.outputs`, the step's own. Raises as `run` does."""
