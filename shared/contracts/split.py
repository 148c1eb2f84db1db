"""How a partitioned step is divided, round by round, and what was made of each part. Immutable once written."""

from pydantic import FiniteFloat

from shared.contracts.base import SCHEMA_VERSION, Contract
from shared.contracts.manifest import ChainLink, OutputFile


class PartPlan(Contract):
    """One part of a round, as the stage wants it (`shared.runtime.stage.Part`)."""

    name: str
    weight: FiniteFloat = 1.0
    needs: dict[str, tuple[str, ...]] | None = None
    parts: tuple[str, ...] | None = None


class PartMade(Contract):
    """What one delivery of a part made."""

    schema_version: int = SCHEMA_VERSION
    job_id: str
    split: str
    part: str
    attempt: str  # the random prefix of this delivery's outputs
    outputs: tuple[OutputFile, ...] = ()
    seconds: FiniteFloat = 0.0  # of compute
    peak_memory_bytes: int = 0
    tries: int = 1


class RoundMade(Contract):
    """A round of which every part is made, and the deliveries that later rounds read."""

    round: str
    split: str
    parts: tuple[PartMade, ...]
    seconds: FiniteFloat = 0.0  # of splitting it


class Split(Contract):
    """One round of a step, divided. `id` follows from what was divided: chain, digest, and the deliveries in `before`."""

    schema_version: int = SCHEMA_VERSION
    job_id: str
    step: str
    position: int
    stage: str
    stage_version: str
    id: str
    round: str
    parts: tuple[PartPlan, ...]
    before: tuple[RoundMade, ...] = ()  # every earlier round, first to last
    chain: tuple[ChainLink, ...] = ()  # every earlier step, first to last
    digest: str = ""  # of the step
    reduction: int = 0
    generation: int = 0
    seconds: FiniteFloat = 0.0  # of splitting
    peak_memory_bytes: int = 0

    def part(self, name: str) -> PartPlan | None:
        """The part of this name."""
        return next((part for part in self.parts if part.name == name), None)
