"""Dividing a round of a step into parts, one message for each, so that every replica of the stage works on the step.

whole step      divided already? → publish what the latest round misses, or what follows it (replaced: divided once more) → ack
                the stage is asked: fewer than two parts? → computed as any step · <split>/split.json → publish every part → ack
its shares      one part: part.py · what follows the last part of a round: gather.py

Whatever is killed, a message that brings the step on is there: one is acked only while missing parts have messages of their own, once it
published what follows itself, or once the next round is marked (`.follows`), which is after the last publish of its parts. Who closes a
round (`.closes`) only decides who need not publish the same again: who sees another's claim puts its message back and looks later, so
nothing is lost with whoever claimed. A step that is published anew asks for whatever the latest round misses, marked or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.contracts.manifest import Manifest
from shared.contracts.request import JobRequest
from shared.contracts.split import PartPlan, RoundMade, Split
from shared.errors import ChildDied
from shared.runtime.attempt import Attempt
from shared.runtime.compute import StageInfo
from shared.runtime.inputs import files_needed, rounds_outputs


@dataclass(frozen=True)
class Division:
    """What is to be divided: a round, and what earlier ones made."""

    id: str
    round: str
    generation: int
    before: tuple[RoundMade, ...] = ()


class ScatteringAttempt(Attempt):
    """An attempt that may divide a round."""

    async def _divide(self, division: Division, info: StageInfo, request: JobRequest, chain: Sequence[Manifest]) -> Split:
        """Asks the stage; nothing is committed yet."""
        files = files_needed(self._message, request, chain, info.split_needs)
        files += rounds_outputs(self._message, division.before, info.split_needs)
        async with self._workspace(request, chain, files) as workspace:
            computed = await self._compute(workspace, "split", division.round)
        _check(computed.parts, division.before)
        message = self._message
        return Split(
            job_id=message.job_id,
            step=message.step.name,
            position=message.position,
            stage=info.name,
            stage_version=info.version,
            id=division.id,
            round=division.round,
            parts=computed.parts,
            before=division.before,
            chain=self._links,
            digest=self._digest,
            reduction=message.reduction,
            generation=division.generation,
            seconds=self._seconds,
            peak_memory_bytes=computed.peak_memory_bytes,
        )


def _check(parts: Sequence[PartPlan], before: Sequence[RoundMade]) -> None:
    known = {part.part for part in before[-1].parts} if before else set[str]()
    unknown = {name for part in parts for name in part.parts or ()} - known
    if unknown:
        raise ChildDied(f"the stage named parts that do not exist: {sorted(unknown)}")
