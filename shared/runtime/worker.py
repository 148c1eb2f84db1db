"""A stage worker: takes one delivery at a time from its queue, and leaves it to another when the lease is lost or the process must go."""

import asyncio
import contextlib
import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from loguru import logger

from shared.broker.headers import trace_id
from shared.contracts.messages import StageMessage
from shared.contracts.routing import HEADER_JOB, HEADER_NEWER, stage_queue
from shared.errors import LeaseLost, MeshworkError
from shared.ports import ArtifactStore, Broker, Delivery, Subscription
from shared.runtime.child import ChildCompute
from shared.runtime.compute import Compute
from shared.runtime.logging import task_context
from shared.runtime.metrics import DELIVERIES, DEPENDENCY_UP, STAGE_BUSY
from shared.runtime.patience import BROKER, DISK, STORE, Patience
from shared.runtime.reading import Newer, ReadMessage, read_message
from shared.runtime.settings import WorkerSettings
from shared.runtime.settling import Settling
from shared.runtime.share_turn import turn_of
from shared.runtime.tools import Tools
from shared.runtime.workfolder import WorkFolder

CONSUMER = "consumer"
NEWER_DELAY_S = 60.0
_PING_S = 5.0


def random_id() -> str:
    """32 hex digits that nobody guesses."""
    return uuid.uuid4().hex


def utc_now() -> datetime:
    """The moment, in UTC."""
    return datetime.now(UTC)


class StageWorker:
    """One consumer of a stage's queue. The broker must be connected; more workers are more processes, or more of these.

    worker = StageWorker("services.sfm.stage:SfmStage", "sfm", broker, store, WorkerSettings())
    await worker.start()
    …
    await worker.stop()
    """

    def __init__(
        self,
        stage: str,
        name: str,
        broker: Broker,
        store: ArtifactStore,
        settings: WorkerSettings,
        compute: Compute | None = None,
        folder: WorkFolder | None = None,
        new_id: Callable[[], str] = random_id,
        now: Callable[[], datetime] = utc_now,
        rng: random.Random | None = None,
    ) -> None:
        self._name = name
        self._settings = settings
        self._broker = broker
        self._store = store
        self._compute = compute or ChildCompute(stage, settings)
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._states = {BROKER: False, STORE: False, DISK: False}
        self._leaving = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        folder = folder or WorkFolder(settings.work_dir, name)
        self._tools = Tools(broker, store, self._compute, settings, folder, self._set_state, new_id, now, self._rng)
        self._subscription: Subscription | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes deliveries from now on. The child is started by the first one."""
        await self._tools.folder.open()
        self._watch = asyncio.create_task(self._watch_dependencies(), name=f"dependencies of {self._name}")
        self._subscription = await self._broker.subscribe(stage_queue(self._name), self._handle, prefetch=1)
        logger.info("worker of stage {} takes deliveries", self._name)

    async def stop(self) -> None:
        """Takes no more, ends the child, hands back what was under way; within the grace period."""
        self._leaving.set()
        if self._subscription is not None:
            with contextlib.suppress(MeshworkError):
                await self._subscription.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self._settings.grace_s)
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._compute.close()
        await self._tools.folder.close()
        logger.info("worker of stage {} left", self._name)

    def ready(self) -> dict[str, bool]:
        """Each dependency, and whether it answered last."""
        consuming = self._subscription is not None and self._subscription.active
        return {**self._states, CONSUMER: consuming and not self._leaving.is_set()}

    async def _handle(self, delivery: Delivery) -> None:
        """Never raises: a delivery that is left unsettled comes back when its lease ends."""
        self._idle.clear()
        STAGE_BUSY.labels(self._name).set(1)
        patience = Patience(float("inf"), self._set_state, self._rng)
        settling = Settling(self._broker, delivery, patience)
        try:
            message = read_message(delivery, self._name)
            with task_context(**_context(delivery, message, self._name)):
                outcome = await self._while_held(delivery, message, settling)
                DELIVERIES.labels(self._name, outcome).inc()
                logger.info("delivery settled: {}", outcome)
        finally:
            STAGE_BUSY.labels(self._name).set(0)
            self._idle.set()

    async def _while_held(self, delivery: Delivery, message: ReadMessage, settling: Settling) -> str:
        """Runs the turn until it ends, the lease is lost, or the process must go. The child has ended when this returns."""
        turn = asyncio.create_task(self._turn(delivery, message, settling))
        lost = asyncio.create_task(delivery.wait_lease_lost())
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait({turn, lost, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if settling.begun and not lost.done():  # better finished than broken off
                await asyncio.wait({turn, lost}, timeout=self._settings.grace_s / 2, return_when=asyncio.FIRST_COMPLETED)
            if turn.done():
                return turn.result()
            turn.cancel()
            await asyncio.gather(turn, return_exceptions=True)
            return "lease_lost" if lost.done() else await self._hand_back(settling)
        finally:
            for task in (turn, lost, leaving):
                task.cancel()
            await asyncio.gather(turn, lost, leaving, return_exceptions=True)

    async def _turn(self, delivery: Delivery, message: ReadMessage, settling: Settling) -> str:
        try:
            if isinstance(message, StageMessage):
                return await turn_of(self._tools, delivery, message, settling).run()
            if isinstance(message, Newer):
                return await self._wait_for_upgrade(delivery, message, settling)
            logger.error("given up: {}", message.reason)
            return await self._give_up(message.reason, settling, "unreadable")
        except LeaseLost:
            return "lease_lost"
        except Exception as error:  # left unsettled, it would hold the worker's only place until its lease ends
            logger.opt(exception=error).error("the message cannot be settled as it should be; it is given up")
            return await self._give_up(f"the worker failed: {type(error).__name__}", settling, "given_up")

    async def _wait_for_upgrade(self, delivery: Delivery, message: Newer, settling: Settling) -> str:
        await settling.retry(NEWER_DELAY_S, delivery.body, delivery.message_id, {HEADER_NEWER: message.times + 1})
        return "newer"

    async def _give_up(self, reason: str, settling: Settling, outcome: str) -> str:
        """Job and step are named by the message's own headers."""
        try:
            await settling.give_up("INTERNAL", reason, None, None)
        except LeaseLost:
            return "lease_lost"
        return outcome

    async def _hand_back(self, settling: Settling) -> str:
        if settling.begun:  # broken off while it settled: the broker gives it to somebody else
            return "left"
        try:
            async with asyncio.timeout(self._settings.grace_s / 2):
                await settling.hand_back()
        except (LeaseLost, TimeoutError):
            return "left"
        return "handed_back"

    def _set_state(self, dependency: str, up: bool) -> None:
        self._states[dependency] = up
        DEPENDENCY_UP.labels(self._name, dependency).set(up)

    async def _watch_dependencies(self) -> None:
        while True:
            needed: dict[str, Broker | ArtifactStore | WorkFolder] = {BROKER: self._broker, STORE: self._store, DISK: self._tools.folder}
            await asyncio.gather(*(self._ping(name, dependency) for name, dependency in needed.items()))
            await asyncio.sleep(self._settings.dependency_check_s if all(self._states.values()) else 1.0)

    async def _ping(self, name: str, dependency: Broker | ArtifactStore | WorkFolder) -> None:
        try:
            async with asyncio.timeout(_PING_S):
                await dependency.ping()
        except Exception as error:
            if self._states[name]:
                logger.warning("{} does not answer: {}", name, error)
            self._set_state(name, False)
        else:
            self._set_state(name, True)


def _context(delivery: Delivery, message: ReadMessage, stage: str) -> dict[str, str]:
    """Every field is bound: in memory, a delivery's task inherits the context of whoever published it."""
    job, attempt = str(delivery.headers.get(HEADER_JOB, "-")), "-"
    if isinstance(message, StageMessage):
        job, attempt = message.job_id, str(message.attempt)
    return {"job": job, "stage": stage, "attempt": attempt, "trace": trace_id(delivery.headers) or "-"}
