"""One part of a split step.

stop? step committed? → turn.py · split replaced? → ack · made already? → as after the commit
inputs of the split's own chain, and what the split says of the round before → compute in the child
upload to <split>/parts/<part>/<attempt>/ → <split>/made/<part>.json, unless it is there → a part missing, the next round marked? → ack
<split>/made/<part>.closes → no closer of a name before it? publish what follows → ack · else look again in a minute

Of those that commit the last parts at once, all may find none missing. Without closers each would publish what follows, and each of those
every part of the next round: they would multiply from round to round.
"""

from collections.abc import Mapping

from shared.contracts.manifest import Manifest
from shared.contracts.split import PartMade, PartPlan, Split
from shared.runtime.attempt import Onward
from shared.runtime.inputs import InputFile, files_needed, part_outputs, rounds_outputs
from shared.runtime.manifests import CorruptInput
from shared.runtime.share import ShareAttempt
from shared.runtime.splits import Standing, brought_on_by, step_fraction
from shared.storage import keys


class PartAttempt(ShareAttempt):
    """Of a message that names a part."""

    async def make(self, previous: Manifest | None) -> Onward:
        """As `Attempt` says; never a manifest, since the part is committed here."""
        info, standing = await self._begin()
        if standing.replaced or self._part in standing.made:
            return await self._onward(standing, "part_found")
        split = standing.split
        await self._splits.commit_part(await self._made(split, info.needs))
        standing = await self._splits.standing(split)
        sentence = f"{split.round}: {len(split.parts) - len(standing.missing)} of {len(split.parts)} parts"
        await self._on_progress(step_fraction(info.rounds, split.round, standing.share_made), sentence)
        return await self._onward(standing, "part_made")

    @property
    def _part(self) -> str:
        return str(self._message.part)

    async def _onward(self, standing: Standing, settlement: str) -> Onward:
        """What follows, once no part is missing. Those that are have messages of their own. Raises LeftToAnother."""
        if standing.missing or standing.over:
            return Onward((), settlement)
        standing = await self._splits.close(standing.split, self._part)
        self._give_way(standing, self._part)
        return Onward(brought_on_by(standing, self._message, self._part), settlement)

    async def _made(self, split: Split, needs: Mapping[str, tuple[str, ...]]) -> PartMade:
        plan = self._plan(split)
        request, chain = await self._context()
        needs = needs if plan.needs is None else plan.needs
        files = files_needed(self._message, request, chain, needs) + self._earlier_parts(split, plan, needs)
        async with self._workspace(request, chain, files) as workspace:
            computed, outputs = await self._outputs(workspace, "run_part", split.round, plan.name)
        return PartMade(
            job_id=self._message.job_id,
            split=split.id,
            part=plan.name,
            attempt=self._name,
            outputs=outputs,
            seconds=self._seconds,
            peak_memory_bytes=computed.peak_memory_bytes,
            tries=self._message.attempt,
        )

    def _earlier_parts(self, split: Split, plan: PartPlan, needs: Mapping[str, tuple[str, ...]]) -> list[InputFile]:
        """All of the parts of the round before that the plan names, and what it needs of any round; each file once."""
        named = part_outputs(self._message, split.before[-1], parts=plan.parts) if split.before else []
        return list({file.key: file for file in (*named, *rounds_outputs(self._message, split.before, needs))}.values())

    def _plan(self, split: Split) -> PartPlan:
        plan = split.part(self._part)
        if plan is None:
            raise CorruptInput(self._output_key(""), self._message.position, None)
        return plan

    def _output_key(self, name: str) -> str:
        message = self._message
        return keys.part_file(message.job_id, message.position, message.step.name, str(message.split), self._part, self._name, name)

    async def _progress(self, fraction: float, sentence: str) -> None:
        """Only parts that are made count: nobody knows how far the others are."""
