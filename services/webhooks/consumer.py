"""Takes deliveries from `webhooks.deliver` and walks each through prepare → call → settle."""

import asyncio
import contextlib
import random
import uuid
from collections.abc import Callable

from loguru import logger

from services.webhooks.call import Called, Clock, call, utc_now
from services.webhooks.prepare import Dropped, Prepared, prepare
from services.webhooks.reading import read_message
from services.webhooks.schedule import what_follows
from services.webhooks.settings import WebhookSettings
from services.webhooks.settle import settle
from services.webhooks.turns import NoTurn, ShareUsedUp, Turns
from shared.broker.headers import trace_id
from shared.contracts.messages import WebhookMessage
from shared.contracts.routing import HEADER_NEWER, HEADER_WAITED, WEBHOOKS_QUEUE
from shared.errors import LeaseLost, MeshworkError, ObjectCorrupt
from shared.http.posting import Poster
from shared.ports import ArtifactStore, Broker, Delivery, Subscription
from shared.runtime.logging import task_context
from shared.runtime.metrics import DEPENDENCY_UP, WEBHOOK_ATTEMPTS, WEBHOOK_DURATION
from shared.runtime.patience import BROKER, STORE, Patience, PatientPublisher, PatientStore, WaitedTooLong
from shared.runtime.reading import Newer, Unreadable, count_header
from shared.runtime.settling import Settling

NAME = "webhooks"
CONSUMER = "consumer"
MAX_LOST = 5  # deliveries that took their worker with them
NEWER_PAUSE_S = 60.0
AWAY_PAUSE_S = 10.0
# Thousands of one tenant, each coming back every ten seconds for hours, would be a load of their own.
LONGEST_PAUSE_S = 300.0
_PING_S = 5.0


def random_id() -> str:
    """A fresh id for an attempt."""
    return str(uuid.uuid4())


class _Stopping(Exception):
    """The service ends, and this delivery has not begun."""


class WebhookConsumer:
    """The service without its process: adapters come in from outside.

    consumer = WebhookConsumer(broker, store, GuardedPoster(policy), settings)
    await consumer.start()
    …
    await consumer.stop()
    """

    def __init__(
        self,
        broker: Broker,
        store: ArtifactStore,
        http: Poster,
        settings: WebhookSettings,
        clock: Clock = utc_now,
        new_id: Callable[[], str] = random_id,
        rng: random.Random | None = None,
    ) -> None:
        self._broker = broker
        self._http = http
        self._settings = settings
        self._clock = clock
        self._new_id = new_id
        self._states = {BROKER: False, STORE: False}
        self._patience = Patience(settings.webhook_store_patience_s, self._set_state, rng or random.Random())  # noqa: S311 - jitter
        self._artifacts = store
        self._store = PatientStore(store, self._patience)
        self._turns = Turns(settings.webhook_prefetch, settings.webhook_calls_per_host)
        self._subscription: Subscription | None = None
        self._watch: asyncio.Task[None] | None = None
        self._under_way: dict[asyncio.Task[None], None] = {}  # in the order of receipt
        self._stopping = False

    async def start(self) -> None:
        """Takes deliveries from now on. The broker must be connected."""
        self._watch = asyncio.create_task(self._watch_dependencies(), name="dependencies of webhooks")
        self._subscription = await self._broker.subscribe(WEBHOOKS_QUEUE, self.handle, self._settings.webhook_prefetch)
        logger.info("webhooks takes deliveries")

    async def stop(self) -> None:
        """Takes no more, hands back what has not begun, and lets calls under way finish within the grace period. For good."""
        self._stopping = True
        if self._subscription is not None:
            with contextlib.suppress(MeshworkError):
                await self._subscription.cancel()
        if self._under_way:
            done, _ = await asyncio.wait(self._under_way, timeout=self._settings.grace_s)
            late = [task for task in self._under_way if task not in done]
            for task in late:
                task.cancel()  # the broker gives its message to somebody else
            await asyncio.gather(*late, return_exceptions=True)
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._http.close()
        logger.info("webhooks left")

    def ready(self) -> dict[str, bool]:
        """Each dependency, and whether it answered last."""
        consuming = self._subscription is not None and self._subscription.active
        return {**self._states, CONSUMER: consuming and not self._stopping}

    async def handle(self, delivery: Delivery) -> None:
        """One delivery, from receipt to settlement. Raises LeaseLost when the broker took it back."""
        task = asyncio.current_task()
        if task is not None:
            self._under_way[task] = None
            task.add_done_callback(lambda done: self._under_way.pop(done, None))
        settling = Settling(self._broker, delivery, self._patience)
        try:
            await self._take(delivery, settling)
        except LeaseLost:
            raise
        except Exception as error:  # left unsettled, it would take one of the prefetch from everybody until the service is restarted
            logger.opt(exception=error).error("a delivery is given up")
            await settling.give_up("INTERNAL", f"the service failed: {type(error).__name__}", None, None)

    async def _take(self, delivery: Delivery, settling: Settling) -> None:
        message = read_message(delivery)
        if isinstance(message, Unreadable):
            await settling.give_up("INTERNAL", message.reason, None, None)
        elif isinstance(message, Newer):
            await settling.retry(NEWER_PAUSE_S, delivery.body, delivery.message_id, {HEADER_NEWER: message.times + 1})
        else:
            with task_context(job=message.job_id, attempt=str(message.attempt), trace=trace_id(delivery.headers)):
                await self._deliver(message, delivery, settling)

    async def _deliver(self, message: WebhookMessage, delivery: Delivery, settling: Settling) -> None:
        try:
            called = await self._attempt(message, delivery)
        except _Stopping:
            await settling.hand_back()
            return
        except (WaitedTooLong, NoTurn) as reason:
            waited = count_header(delivery, HEADER_WAITED) + 1
            pause_s = min(AWAY_PAUSE_S * waited, LONGEST_PAUSE_S) if isinstance(reason, ShareUsedUp) else AWAY_PAUSE_S
            await settling.retry(pause_s, delivery.body, delivery.message_id, {HEADER_WAITED: waited})
            return
        except ObjectCorrupt as error:
            logger.error("{}: nothing is sent, and it is stored again", error)
            called = Called(self._clock(), error="its body is damaged in our store: not sent, and stored again", body_damaged=True)
        except Exception as error:  # whatever it is, the schedule gives it three days to be put right
            logger.opt(exception=error).error("an attempt broke off", delivery=message.delivery_id)
            called = Called(self._clock(), error=f"something went wrong on our side ({type(error).__name__})")
        await self._settle(message, called, delivery, settling)

    async def _attempt(self, message: WebhookMessage, delivery: Delivery) -> Called | Dropped:
        if delivery.delivery_count >= MAX_LOST:
            return Called(self._clock(), error="the service was lost again and again while it made this call", lost=True)
        async with self._turns.turn(message.url, message.tenant):
            if self._stopping:
                raise _Stopping
            prepared = await prepare(message, self._store)
            return await self._timed_call(prepared) if isinstance(prepared, Prepared) else prepared

    async def _timed_call(self, prepared: Prepared) -> Called:
        loop = asyncio.get_running_loop()
        began = loop.time()
        called = await call(prepared, self._http, self._settings.seal_key.get_secret_value(), self._clock)
        WEBHOOK_DURATION.labels("failed" if called.error else "delivered").observe(loop.time() - began)
        return called

    async def _settle(self, message: WebhookMessage, called: Called | Dropped, delivery: Delivery, settling: Settling) -> None:
        if isinstance(called, Dropped):
            logger.info("nothing to deliver: {}", called.reason, delivery=message.delivery_id)
            await settling.done()
            return
        following = what_follows(message, called)
        logger.info("webhook {}: {}", following.outcome, called.error or called.status_code, delivery=message.delivery_id)
        WEBHOOK_ATTEMPTS.labels(following.outcome).inc()
        publisher = PatientPublisher(self._broker, self._patience.endless())
        await settle(message, called, following, self._new_id(), delivery, publisher, settling)

    def _set_state(self, dependency: str, up: bool) -> None:
        self._states[dependency] = up
        DEPENDENCY_UP.labels(NAME, dependency).set(up)

    async def _watch_dependencies(self) -> None:
        while True:
            await asyncio.gather(self._ping(BROKER, self._broker), self._ping(STORE, self._artifacts))
            await asyncio.sleep(self._settings.dependency_check_s if all(self._states.values()) else 1.0)

    async def _ping(self, name: str, dependency: Broker | ArtifactStore) -> None:
        try:
            async with asyncio.timeout(_PING_S):
                await dependency.ping()
        except Exception as error:
            if self._states[name]:
                logger.warning("{} does not answer: {}", name, error)
            self._set_state(name, False)
        else:
            self._set_state(name, True)
