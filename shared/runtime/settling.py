"""Settling one delivery, with endless patience: a worker whose publish fails keeps its message and tries again."""

from collections.abc import Awaitable, Callable

from shared.broker import settlement
from shared.ports import Broker, Delivery, Headers
from shared.runtime.patience import BROKER, Patience


class Settling:
    """The settlements of `shared.broker.settlement` for one delivery. `begun`: from here on it is better to finish than to break off."""

    def __init__(self, broker: Broker, delivery: Delivery, patience: Patience) -> None:
        self._broker = broker
        self._delivery = delivery
        self._patience = patience.endless()
        self.begun = False
        self.settled = False

    async def done(self) -> None:
        """There is nothing more to do."""
        await self._insist(lambda: settlement.done(self._delivery))

    async def retry(self, delay_s: float, body: bytes, message_id: str, headers: Headers | None = None) -> None:
        """Comes back after a while."""
        await self._insist(lambda: settlement.retry(self._broker, self._delivery, delay_s, body, message_id, headers))

    async def give_up(self, code: str, reason: str, job_id: str | None, step: str | None) -> None:
        """Parks it, where the tracker sees it too."""
        await self._insist(lambda: settlement.give_up(self._broker, self._delivery, code, reason, job_id, step))

    async def hand_back(self) -> None:
        """For another worker."""
        await self._insist(lambda: settlement.hand_back(self._broker, self._delivery))

    async def _insist(self, settle: Callable[[], Awaitable[None]]) -> None:
        self.begun = True
        await self._patience.call(BROKER, settle)
        self.settled = True
