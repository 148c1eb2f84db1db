"""The splits of one step in the store, and which of their parts are made.

A split's id follows from what was divided: two that divide the same round write the same split, and their messages are the same messages.
Everything that a part needs is under its split's prefix, and never changes. Other inputs, another version, fewer pixels: another split.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from shared.contracts.manifest import ChainLink
from shared.contracts.messages import StageMessage
from shared.contracts.routing import deterministic_id
from shared.contracts.split import PartMade, PartPlan, RoundMade, Split
from shared.errors import ObjectCorrupt, ObjectMissing
from shared.runtime.inputs import all_or_first_error
from shared.runtime.manifests import CorruptInput
from shared.runtime.patience import PatientStore
from shared.storage import keys


@dataclass(frozen=True)
class Standing:
    """How far a split is.

    `replaced`: the step was published anew, nobody needs its parts. `closer`: of the parts that found none missing, the first by name.
    `following`: the split of the next round, once every part of that one was published.
    """

    split: Split
    made: frozenset[str] = frozenset()
    replaced: bool = False
    closer: str | None = None
    following: str | None = None

    @property
    def over(self) -> bool:
        """Nobody need do anything about it: other messages bring the step on."""
        return self.replaced or self.following is not None

    @property
    def missing(self) -> tuple[PartPlan, ...]:
        """Parts that are not made yet."""
        return tuple(part for part in self.split.parts if part.name not in self.made)

    @property
    def share_made(self) -> float:
        """Of the round's work, 0 to 1."""
        total = sum(part.weight for part in self.split.parts)
        return 1.0 - sum(part.weight for part in self.missing) / total if total else 1.0


class Splits:
    """Those of one message's step."""

    def __init__(self, store: PatientStore, message: StageMessage) -> None:
        self._store = store
        self._message = message
        self._step = (message.job_id, message.position, message.step.name)

    def first_id(self, chain: Sequence[ChainLink], digest: str, generation: int) -> str:
        """Of the first round's split. `digest` holds the stage's version, params, inputs and reduction.

        Whatever has a step start over counts, in the message that starts it: never the same split again.
        """
        attempts = (link.attempt for link in chain)
        return deterministic_id("split", *self._step, *attempts, digest, self._message.corrupt_findings, generation)

    async def read(self, split: str) -> Split:
        """What a message names. Raises CorruptInput."""
        found = await self.find(split)
        if found is None:
            raise CorruptInput(keys.split(*self._step, split), self._message.position, None)
        return found

    async def find(self, split: str) -> Split | None:
        """The same; None where there is none that anybody can read."""
        try:
            found = Split.model_validate_json(await self._store.get(keys.split(*self._step, split)))
        except (ObjectMissing, ObjectCorrupt, ValidationError):
            return None
        return found if (found.job_id, found.position, found.id) == (*self._step[:2], split) else None

    async def commit(self, split: Split) -> Standing:
        """Commits a split; how far it is, should another have divided the same round meanwhile."""
        first = await self.find(split.id)
        if first is not None:
            return await self.standing(first)
        await self._store.put(keys.split(*self._step, split.id), split.to_bytes())
        return Standing(split)

    async def standing(self, split: Split) -> Standing:
        """How far it is, now."""
        prefix = keys.parts_made(*self._step, split.id)
        found = await self._store.list(prefix)

        def named(suffix: str) -> list[str]:
            return [key.removeprefix(prefix).removesuffix(suffix) for key in found if key.endswith(suffix)]

        replaced = keys.split_replaced(*self._step, split.id) in found
        return Standing(
            split, frozenset(named(".json")), replaced, min(named(".closes"), default=None), min(named(".follows"), default=None)
        )

    async def latest(self, first: Split) -> Standing:
        """Of the round that was divided last, from this one on; replaced, where one of them was, or cannot be read."""
        standing = await self.standing(first)
        while standing.following is not None and not standing.replaced:
            found = await self.find(standing.following)
            standing = replace(standing, replaced=True) if found is None else await self.standing(found)
        return standing

    async def close(self, split: Split, part: str) -> Standing:
        """Says that this part means to bring on what follows; how far the split is then."""
        await self._store.put(keys.part_closes(*self._step, split.id, part), b"")
        return await self.standing(split)

    def followed(self, split: Split, following: Split) -> str:
        """The key that says so."""
        return keys.split_followed(*self._step, split.id, following.id)

    async def commit_part(self, made: PartMade) -> None:
        """Commits a part, unless another delivery of it was first."""
        key = keys.part_made(*self._step, made.split, made.part)
        if not await self._store.exists(key):
            await self._store.put(key, made.to_bytes())

    async def replace(self, split: str) -> None:
        """Says that the step was published anew, once it was."""
        await self._store.put(keys.split_replaced(*self._step, split), b"")

    async def made(self, split: Split, at_once: int) -> RoundMade:
        """What a round made, every part of it. Raises CorruptInput."""
        turns = asyncio.Semaphore(at_once)

        async def one(part: PartPlan) -> PartMade:
            async with turns:
                return await self._part(split, part)

        parts = await all_or_first_error(one(part) for part in split.parts)
        return RoundMade(round=split.round, split=split.id, parts=tuple(parts), seconds=split.seconds)

    async def _part(self, split: Split, part: PartPlan) -> PartMade:
        key = keys.part_made(*self._step, split.id, part.name)
        try:
            made = PartMade.model_validate_json(await self._store.get(key))
        except (ObjectMissing, ObjectCorrupt, ValidationError) as error:
            raise CorruptInput(key, self._message.position, None) from error
        if (made.job_id, made.split, made.part) != (self._message.job_id, split.id, part.name):
            raise CorruptInput(key, self._message.position, None)
        return made


def following_id(made: RoundMade, round: str) -> str:
    """Of the split of the round after one that these deliveries made."""
    return deterministic_id("split", made.split, round, *(part.attempt for part in made.parts))


def step_fraction(rounds: Sequence[str], round: str, share_made: float) -> float:
    """How far the step is (0 to 1) when this share of a round is made: every round, and the join, count alike."""
    return (rounds.index(round) + share_made) / (len(rounds) + 1)


def brought_on_by(standing: Standing, message: StageMessage, closer: str | None = None) -> tuple[StageMessage, ...]:
    """What brings a split on: its missing parts, or what follows it, in the name of `closer`. Nothing where it is over."""
    if standing.over:
        return ()
    split = standing.split
    if not standing.missing:
        return (message.share(split, None, closer),)
    heaviest_first = sorted(standing.missing, key=lambda part: -part.weight)  # whoever waits for the last part waits the least
    return tuple(message.share(split, part.name) for part in heaviest_first)
