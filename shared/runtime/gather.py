"""What follows the last part of a round: the next round's parts, or the join, which makes the step.

stop? step committed? → turn.py, as for any step · split replaced, next round marked? → ack · a part missing? → published again → ack
a closer before the one that published this? → look again in a minute (and once more before the next round's parts are published)
a next round?   (one without parts is passed over) divided already? → publish what is missing, or what follows → mark → ack
                the stage is asked, with what this round made → <split>/split.json → publish every part → mark → ack
the join        inputs of the split's own chain, what every round made → compute in the child → the step's manifest, as for any step
"""

from shared.contracts.manifest import Manifest, PartLink
from shared.contracts.split import RoundMade, Split
from shared.runtime.attempt import Onward
from shared.runtime.compute import StageInfo
from shared.runtime.inputs import files_needed, rounds_outputs
from shared.runtime.scatter import Division, ScatteringAttempt
from shared.runtime.share import ShareAttempt
from shared.runtime.splits import Standing, brought_on_by, following_id, step_fraction


class GatherAttempt(ShareAttempt, ScatteringAttempt):
    """Of a message that names a split, but no part."""

    _rounds: tuple[str, ...] = ()

    async def make(self, previous: Manifest | None) -> Manifest | Onward:
        """As `Attempt` says."""
        info, standing = await self._begin()
        split, self._rounds = standing.split, info.rounds
        if standing.over or standing.missing:
            return Onward(brought_on_by(standing, self._message), "gathered_too_late" if standing.over else "gathered_too_early")
        self._give_way(standing, self._message.closer)
        before = (*split.before, await self._splits.made(split, self._tools.settings.transfers))
        for round in info.rounds[info.rounds.index(split.round) + 1 :]:
            if (onward := await self._next_round(info, split, round, before)) is not None:
                return onward
            before = (*before, RoundMade(round=round, split=following_id(before[-1], round), parts=(), seconds=self._seconds))
            self._seconds = 0.0
        return await self._joined(info, before)

    async def _next_round(self, info: StageInfo, split: Split, round: str, before: tuple[RoundMade, ...]) -> Onward | None:
        """None for a round without parts: nobody else need hear of it."""
        following = following_id(before[-1], round)
        found = await self._splits.find(following)
        if found is not None:
            return self._scattered(split, await self._splits.standing(found), "scattered_again")
        request, chain = await self._context()
        divided = await self._divide(Division(following, round, split.generation, before), info, request, chain)
        if not divided.parts:
            return None
        self._give_way(await self._splits.standing(split), self._message.closer)
        return self._scattered(split, await self._splits.commit(divided), "scattered")

    def _scattered(self, split: Split, following: Standing, settlement: str) -> Onward:
        """Marks this round as followed once nothing of the next one is left to publish."""
        return Onward(brought_on_by(following, self._message), settlement, self._splits.followed(split, following.split))

    async def _joined(self, info: StageInfo, rounds: tuple[RoundMade, ...]) -> Manifest:
        request, chain = await self._context()
        files = files_needed(self._message, request, chain, info.join_needs) + rounds_outputs(self._message, rounds, info.join_needs)
        async with self._workspace(request, chain, files) as workspace:
            computed, outputs = await self._outputs(workspace, "join")
        parts = [part for made in rounds for part in made.parts]
        manifest = await self._manifest(computed.report)
        return manifest.model_copy(
            update={
                "outputs": outputs,
                "peak_memory_bytes": max(computed.peak_memory_bytes, *(part.peak_memory_bytes for part in parts)),
                "seconds": self._seconds + sum(made.seconds for made in rounds) + sum(part.seconds for part in parts),
                "tries": max(self._message.attempt, *(part.tries for part in parts)),
                "parts": tuple(
                    PartLink(round=made.round, split=made.split, part=part.part, attempt=part.attempt)
                    for made in rounds
                    for part in made.parts
                ),
            }
        )

    async def _progress(self, fraction: float, sentence: str) -> None:
        """What the join tells, behind every round."""
        await self._on_progress(step_fraction(self._rounds, self._rounds[-1], 1.0) + fraction / (len(self._rounds) + 1), sentence)
