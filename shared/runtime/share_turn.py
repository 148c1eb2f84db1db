"""The turns of a delivery about a share of a step: a part, or what follows the parts of a round.

It tells no start, and reads its inputs through its split, whatever the previous step's manifest says by now. What goes wrong with one share
for good starts the whole step over: its parts must fit together. Only once the step was published anew is its split marked as replaced;
from then on the parts of it that are still in the queue cost nothing.
"""

from loguru import logger

from shared.contracts.manifest import Manifest
from shared.contracts.messages import StageMessage
from shared.contracts.routing import HEADER_LOOKED, HEADER_OTHER_VERSION
from shared.ports import Delivery
from shared.runtime.gather import GatherAttempt
from shared.runtime.part import PartAttempt
from shared.runtime.reading import count_header
from shared.runtime.settling import Settling
from shared.runtime.share import LeftToAnother, OtherVersion
from shared.runtime.splits import Splits
from shared.runtime.tools import Tools
from shared.runtime.turn import Turn, attempt_key

OTHER_VERSION_S = 60.0  # a worker of the version that split the step may take it meanwhile
MAX_OTHER_VERSION = 5  # then there is none any more
LOOK_AGAIN_S = 60.0  # longer than what follows a round takes to be published
MAX_LOOKS = 5  # then whoever meant to do it was lost, and its message taken by somebody who left it to us


def turn_of(tools: Tools, delivery: Delivery, message: StageMessage, settling: Settling) -> Turn:
    """The turn that suits a message."""
    return Turn(tools, delivery, message, settling) if message.split is None else ShareTurn(tools, delivery, message, settling)


class ShareTurn(Turn):
    """Of a message that names a split."""

    def __init__(self, tools: Tools, delivery: Delivery, message: StageMessage, settling: Settling) -> None:
        super().__init__(tools, delivery, message, settling, GatherAttempt if message.part is None else PartAttempt)

    async def _find(self, committed: Manifest) -> str:
        """What follows the last part commits the step and forwards it, so it may be for this message to do; never for a part's."""
        if self._message.part is None:
            return await super()._find(committed)
        if committed.error is not None:
            await self._tell.failed(self._message.position, attempt_key(committed))
        return await self._done("part_too_late")

    async def _begin(self) -> str:
        try:
            return await self._work(None)
        except OtherVersion as error:
            return await self._leave_to_its_version(error)
        except LeftToAnother:
            return await self._look_again()

    async def _look_again(self) -> str:
        """Later; where nothing came of it in the end, what follows is published all the same."""
        looked = count_header(self._delivery, HEADER_LOOKED) + 1
        if looked > MAX_LOOKS:
            await self._tell.hand_on(self._message.model_copy(update={"part": None, "closer": None, "attempt": 1}))
            return await self._done("closed_by_nobody")
        await self._settling.retry(LOOK_AGAIN_S, self._delivery.body, self._message.message_id, {HEADER_LOOKED: looked})
        return "left_to_another"

    async def _leave_to_its_version(self, error: OtherVersion) -> str:
        times = count_header(self._delivery, HEADER_OTHER_VERSION) + 1
        logger.warning("{} ({} of {} times put back)", error, times - 1, MAX_OTHER_VERSION)
        if times > MAX_OTHER_VERSION:
            return await self._start_over(self._message.whole(), "split_anew")
        await self._settling.retry(OTHER_VERSION_S, self._delivery.body, self._message.message_id, {HEADER_OTHER_VERSION: times})
        return "other_version"

    async def _reduce(self) -> str:
        message = self._message.whole().model_copy(update={"attempt": self._message.attempt + 1, "reduction": 1})
        return await self._start_over(message, "reduced")

    async def _start_over(self, message: StageMessage, settlement: str) -> str:
        if message.position == self._message.position:
            message = message.model_copy(update={"generation": self._message.generation + 1})
        await self._tell.hand_on(message)
        await Splits(self._store, self._message).replace(str(self._message.split))
        return await self._done(settlement)
