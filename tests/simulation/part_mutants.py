"""The protocol of parts with one line broken."""

from typing import Any
from unittest import mock

import shared.runtime.part as part
import shared.runtime.share as share
import shared.runtime.share_turn as share_turn
import shared.runtime.turn as turn
from shared.contracts.messages import StageMessage
from shared.runtime.attempt import Onward
from shared.runtime.splits import Splits, Standing
from shared.storage import keys

Patch = Any


def parts_share_a_key() -> Patch:
    """All parts of a split write under one prefix."""

    def part_file(job_id: str, position: int, step: str, split: str, part: str, attempt: str, name: str) -> str:
        return keys.attempt_file(job_id, position, step, split, f"parts/all/of/{name}")

    return mock.patch.object(keys, "part_file", part_file)


def last_part_alone_gathers() -> Patch:
    """Of a round's parts only the last one by name publishes what follows."""
    real = part.PartAttempt._onward

    async def onward(self: part.PartAttempt, standing: Standing, settlement: str) -> Onward:
        return await real(self, standing, settlement) if self._part == standing.split.parts[-1].name else Onward((), settlement)

    return mock.patch.object(part.PartAttempt, "_onward", onward)


def made_part_says_nothing() -> Patch:
    """Whoever finds its part made already only acks."""
    real = part.PartAttempt._onward

    async def onward(self: part.PartAttempt, standing: Standing, settlement: str) -> Onward:
        return Onward((), settlement) if settlement == "part_found" else await real(self, standing, settlement)

    return mock.patch.object(part.PartAttempt, "_onward", onward)


def ack_before_parts() -> Patch:
    """What divided a round is acked, then its parts are published."""

    async def go_onward(self: turn.Turn, onward: Onward) -> str:
        settled = await self._done(onward.settlement)
        for message in onward.messages:
            await self._tell.hand_on(message)
        return settled

    return mock.patch.object(turn.Turn, "_go_onward", go_onward)


def replaced_before_publish() -> Patch:
    """A split is marked as replaced before its step was published anew."""
    real = share_turn.ShareTurn._start_over

    async def start_over(self: share_turn.ShareTurn, message: StageMessage, settlement: str) -> str:
        await Splits(self._store, self._message).replace(str(self._message.split))
        return await real(self, message, settlement)

    return mock.patch.object(share_turn.ShareTurn, "_start_over", start_over)


def part_alone_is_reduced() -> Patch:
    """A part that ran out of memory is computed at a lower resolution, the others are not."""

    async def reduce(self: share_turn.ShareTurn) -> str:
        return await self._retry(reduction=1)

    return mock.patch.object(share_turn.ShareTurn, "_reduce", reduce)


def marked_before_publish() -> Patch:
    """A round is marked as followed before the next one's parts were published."""
    real = turn.Turn._go_onward

    async def go_onward(self: turn.Turn, onward: Onward) -> str:
        if onward.mark is not None:
            await self._store.put(onward.mark, b"")
        return await real(self, onward)

    return mock.patch.object(turn.Turn, "_go_onward", go_onward)


def everybody_closes() -> Patch:
    """Nobody looks whether another closes a round."""
    return mock.patch.object(share.ShareAttempt, "_give_way", lambda self, standing, closer: None)
