"""One delivery's way through the worker loop: the same for every stage. Change it with care: its order is what nothing is lost by.

Messages about a share of a step go the same way with a few turns of their own (share_turn.py).

stop? → ack · step committed? → forward, or tell that it failed · worker lost too often → give up · tell started
inputs through the previous step's manifest · a parent's outputs of the same digest, else compute in the child, reading `stop`, and upload
attempt's manifest, step's manifest
FORWARD: publish next → tell stage.completed → ack          always publish before ack
a partitioned stage may divide the step instead of making it: publish what brings it on → ack

Store or disk away: until it computes, the message is held for seconds and then put aside (`retry.10s`), since each loss of a worker that
holds it would count against the step; from then on it is held for as long as the step may take, or the work would be lost.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from loguru import logger

from shared.contracts.manifest import Manifest
from shared.contracts.messages import StageMessage
from shared.contracts.routing import HEADER_WAITED
from shared.errors import CODES, ChildDied, DependencyUnavailable, LeaseLost, OutOfMemory, PermanentError, TransientError
from shared.ports import Delivery
from shared.runtime.attempt import Attempt, Onward
from shared.runtime.commit import commit
from shared.runtime.inputs import all_or_first_error
from shared.runtime.making import StepAttempt
from shared.runtime.manifests import CorruptInput, committed_manifest
from shared.runtime.metrics import CORRUPT_INPUTS
from shared.runtime.patience import Patience, PatientPublisher, PatientStore, WaitedTooLong
from shared.runtime.reading import count_header
from shared.runtime.repair import MAX_FINDINGS, take_back
from shared.runtime.settling import Settling
from shared.runtime.telling import Teller
from shared.runtime.tools import Tools
from shared.storage import keys

MAX_TRIES = 3  # counted attempts of a step
MAX_LOST_WORKERS = 5
RETRY_DELAYS_S = (10.0, 60.0)  # before attempts 2 and 3
SHORT_ASIDE_S = 10.0  # for a message that was put aside before anything was computed
ASIDE_S = 300.0  # for one that was held for as long as its step may take


class Turn:
    """Settles one delivery. Cancelling `run` ends the child and settles nothing."""

    def __init__(
        self, tools: Tools, delivery: Delivery, message: StageMessage, settling: Settling, attempt: type[Attempt] = StepAttempt
    ) -> None:
        limit_s = message.step.hard_limit_s
        short = Patience(min(tools.settings.input_patience_s, limit_s), tools.on_state, tools.rng)  # until it computes: attempt.py
        self._tools = tools
        self._delivery = delivery
        self._message = message
        self._settling = settling
        self._store = PatientStore(tools.store, short)
        publisher = PatientPublisher(tools.broker, Patience(limit_s, tools.on_state, tools.rng))  # putting aside needs the broker too
        self._tell = Teller(tools.broker, publisher, delivery, message, tools.now())
        self._attempt = attempt(tools, self._store, message, self._tell.progress)

    async def run(self) -> str:
        """The settlement's name, however the turn ended."""
        try:
            try:
                return await self._settle()
            except (CorruptInput, PermanentError, OutOfMemory) as error:
                return await self._recover(error)
        except LeaseLost:
            return "lease_lost"
        except Exception as error:
            return await self._come_back(error)

    async def _settle(self) -> str:
        if await self._store.exists(keys.stop(self._message.job_id)):
            return await self._done("stopped")
        committed = await committed_manifest(self._store, self._message, self._message.position)
        if committed is not None:
            return await self._find(committed)
        lost = max(self._delivery.delivery_count, self._message.resumed)
        if lost >= MAX_LOST_WORKERS:
            return await self._give_up("WORKER_LOST", f"{lost} workers were lost on this step")
        return await self._begin()

    async def _find(self, committed: Manifest) -> str:
        """The step is committed already."""
        return await self._conclude(committed, "forwarded")

    async def _begin(self) -> str:
        await self._tell.started()
        if self._message.position == 0:
            return await self._work(None)
        return await self._work_after(await committed_manifest(self._store, self._message, self._message.position - 1))

    async def _work_after(self, previous: Manifest | None) -> str:
        position = self._message.position - 1
        if previous is None:
            await self._tell.hand_on(self._message.at(position))
            return await self._done("previous_missing")
        if previous.error is not None:
            await self._tell.failed(position, attempt_key(previous))
            return await self._done("previous_failed")
        return await self._work(previous)

    async def _work(self, previous: Manifest | None) -> str:
        made = await self._unless_stopped(self._attempt.make(previous))
        if made is None:
            return await self._done("stopped")
        if isinstance(made, Onward):
            return await self._go_onward(made)
        return await self._conclude(await commit(self._store, self._message, made), "done")

    async def _go_onward(self, onward: Onward) -> str:
        turns = asyncio.Semaphore(self._tools.settings.transfers)

        async def hand_on(message: StageMessage) -> None:
            async with turns:
                await self._tell.hand_on(message)

        await all_or_first_error(hand_on(message) for message in onward.messages)
        if onward.mark is not None:
            await self._store.put(onward.mark, b"")
        return await self._done(onward.settlement)

    async def _conclude(self, committed: Manifest, settlement: str) -> str:
        """Forwards a committed step, or tells that it failed. `committed` need not be this turn's."""
        message = self._message
        if committed.error is not None:
            await self._tell.failed(message.position, attempt_key(committed))
            return await self._done("failed")
        if not message.slip.is_last(message.position):
            await self._tell.hand_on(message.at(message.position + 1))
        await self._tell.completed(attempt_key(committed))
        return await self._done(settlement)

    async def _unless_stopped(self, work: Coroutine[Any, Any, Manifest | Onward]) -> Manifest | Onward | None:
        """What the work makes; None when the job was stopped meanwhile, and then the work has ended too."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._until_stopped())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else stop.result()
        finally:
            task.cancel()
            stop.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    async def _until_stopped(self) -> None:
        while True:
            await asyncio.sleep(self._tools.settings.stop_poll_s)
            try:
                if await self._tools.store.exists(keys.stop(self._message.job_id)):
                    return
            except DependencyUnavailable:  # computing goes on; what needs the store will wait for it
                continue

    async def _recover(self, error: CorruptInput | PermanentError | OutOfMemory) -> str:
        """Endings that write and publish before they settle."""
        if isinstance(error, CorruptInput):
            return await self._repair(error)
        if isinstance(error, PermanentError):
            return await self._fail(error)
        if self._message.reduction:
            return await self._fail(PermanentError(error.code))
        logger.warning("{}; once more at a lower resolution", error)
        return await self._reduce()

    async def _reduce(self) -> str:
        return await self._retry(reduction=1)

    async def _repair(self, finding: CorruptInput) -> str:
        CORRUPT_INPUTS.labels(self._message.step.stage).inc()
        logger.error("{} (finding {} of this job)", finding, self._message.corrupt_findings + 1)
        if self._message.corrupt_findings + 1 >= MAX_FINDINGS:
            return await self._fail(PermanentError("ARTIFACT_CORRUPT"))
        return await self._start_over(await take_back(self._store, self._message, finding), "repaired")

    async def _start_over(self, message: StageMessage, settlement: str) -> str:
        """From this step or an earlier one."""
        await self._tell.hand_on(message)
        return await self._done(settlement)

    async def _fail(self, error: PermanentError) -> str:
        """Commits the failure: whoever comes later finds it."""
        logger.warning("the step failed: {} {}", error.code, error.message)
        made = await self._attempt.failure(error)
        return await self._conclude(await commit(self._store, self._message, made), "done")

    async def _come_back(self, error: Exception) -> str:
        """Endings that only settle: later and uncounted, again and counted, or never."""
        try:
            if isinstance(error, WaitedTooLong):
                return await self._put_aside(error)
            if isinstance(error, TransientError):
                logger.warning("try {} failed: {} {}", self._message.attempt, error.code, error)
                return await self._retry_or_give_up(error)
            logger.opt(exception=error).error("the worker loop failed")
            return await self._retry_or_give_up(ChildDied(f"the worker failed: {type(error).__name__}"))
        except LeaseLost:
            return "lease_lost"

    async def _retry_or_give_up(self, error: TransientError) -> str:
        if self._message.attempt < MAX_TRIES:
            return await self._retry(self._message.reduction)
        return await self._give_up(error.code if error.code in CODES else "INTERNAL", str(error))

    async def _retry(self, reduction: int) -> str:
        message = self._message.model_copy(update={"attempt": self._message.attempt + 1, "reduction": reduction})
        delay_s = RETRY_DELAYS_S[min(self._message.attempt, len(RETRY_DELAYS_S)) - 1]
        await self._settling.retry(delay_s, message.to_bytes(), message.message_id)
        return "retried"

    async def _put_aside(self, error: WaitedTooLong) -> str:
        """Again and again for as long as the outage lasts: what waits in a retry queue costs nothing, and no loss of a worker counts."""
        logger.warning("put aside, uncounted: {}", error)
        waited = {HEADER_WAITED: count_header(self._delivery, HEADER_WAITED) + 1}
        pause_s = ASIDE_S if error.limit_s >= self._message.step.hard_limit_s else SHORT_ASIDE_S
        await self._settling.retry(pause_s, self._delivery.body, self._message.message_id, waited)
        return "put_aside"

    async def _give_up(self, code: str, reason: str) -> str:
        await self._settling.give_up(code, reason, self._message.job_id, self._message.step.name)
        return "given_up"

    async def _done(self, settlement: str) -> str:
        await self._settling.done()
        return settlement


def attempt_key(manifest: Manifest) -> str:
    """Where an attempt's own manifest is."""
    return keys.attempt_manifest(manifest.job_id, manifest.position, manifest.step, manifest.attempt)
