"""The tracker: consumes what workers tell, folds it into rows, decides endings. One transaction per batch; acks after the commit.

tracker = Tracker(database, broker, store, links)
await tracker.start()

While database, store or broker are away it waits with the batch unacked. What it cannot read it parks in `dead.tracker`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from loguru import logger

from gateway.batch_manifests import read_manifests
from gateway.database import deliveries, jobs
from gateway.database.engine import Database, Rows
from gateway.folding import JobFold, Manifests
from gateway.links import Links
from gateway.news import DeliveryDied, Fact, Unreadable, read_fact
from gateway.patience import stop_tasks, when_available
from shared.contracts.events import WebhookAttempted
from shared.contracts.routing import DEAD_EXCHANGE, HEADER_CODE, HEADER_REASON, TRACKER_QUEUE
from shared.errors import DependencyUnavailable, LeaseLost
from shared.ports import ArtifactStore, Broker, Delivery, Publication, Subscription

MAX_BATCH = 100
LINGER_S = 0.02  # how long a batch that is not full waits for more; progress is told once a second, nobody sees this
_REASON_CHARACTERS = 500


@dataclass
class _Item:
    """A delivery in hand, what it says, and whether it is settled."""

    delivery: Delivery
    fact: Fact | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class Tracker:
    """Runs until stopped; any number of replicas may run."""

    def __init__(self, database: Database, broker: Broker, store: ArtifactStore, links: Links, linger_s: float = LINGER_S) -> None:
        self._database = database
        self._broker = broker
        self._store = store
        self._links = links
        self._linger_s = linger_s
        self._waiting: asyncio.Queue[_Item] = asyncio.Queue()
        self._held: dict[asyncio.Event, None] = {}  # in the order of receipt
        self._subscription: Subscription | None = None
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def active(self) -> bool:
        """Whether it takes deliveries now."""
        return self._subscription is not None and self._subscription.active and self._loop_task is not None and not self._loop_task.done()

    async def start(self) -> None:
        """Subscribes; returns once it consumes."""
        self._loop_task = asyncio.create_task(self._run(), name="tracker")
        self._subscription = await self._broker.subscribe(TRACKER_QUEUE, self._receive, MAX_BATCH)

    async def stop(self) -> None:
        """Takes nothing more; what was not committed is redelivered to another replica."""
        if self._subscription is not None:
            await self._subscription.cancel()
        await stop_tasks(self._loop_task)
        for settled in list(self._held):
            settled.set()  # lets the handlers return; unacked, the messages stay the broker's

    async def _receive(self, delivery: Delivery) -> None:
        item = _Item(delivery)
        self._held[item.settled] = None
        self._waiting.put_nowait(item)
        try:
            await item.settled.wait()
        finally:
            del self._held[item.settled]

    async def _run(self) -> None:
        while True:
            batch = await self._collect()
            try:
                await self._work(batch)
            except Exception:
                logger.exception("the tracker failed on a batch of {}; it goes on one by one", len(batch))
                await self._work_singly(batch)

    async def _collect(self) -> list[_Item]:
        """What is there, up to a full batch, after a short pause for more."""
        batch = [await self._waiting.get()]
        if self._waiting.qsize() + 1 < MAX_BATCH:
            await asyncio.sleep(self._linger_s)
        while len(batch) < MAX_BATCH and not self._waiting.empty():
            batch.append(self._waiting.get_nowait())
        return batch

    async def _work_singly(self, batch: Sequence[_Item]) -> None:
        """One message that breaks us must not hold up the others: it is parked, where a person finds it."""
        for item in batch:
            try:
                await self._work([item])
            except Exception as error:
                logger.exception("the tracker gives up on {}", item.delivery.message_id)
                await self._park(item, "INTERNAL", f"{type(error).__name__}: {error}")
                await _settle(item)

    async def _work(self, batch: Sequence[_Item]) -> None:
        readable = [item for item in batch if not item.settled.is_set() and await self._read(item)]
        facts = [item.fact for item in readable if item.fact is not None]
        if facts:
            await when_available(lambda: self._fold(facts), "the tracker")
        for item in batch:
            await _settle(item)

    async def _read(self, item: _Item) -> bool:
        try:
            item.fact = read_fact(item.delivery)
        except Unreadable as error:
            logger.error("the tracker cannot read {} on {}: {}", item.delivery.routing_key, item.delivery.exchange, error)
            await self._park(item, "UNREADABLE", str(error))
            return False
        return True

    async def _fold(self, facts: Sequence[Fact]) -> None:
        """Everything from the store first, then one transaction: none is open while we wait for the store."""
        manifests = await read_manifests(self._database, self._store, facts)
        async with self._database.write() as rows:
            await fold_facts(rows, facts, self._links, manifests)

    async def _park(self, item: _Item, code: str, reason: str) -> None:
        headers = {name: value for name, value in item.delivery.headers.items() if not name.startswith("x-")}
        publication = Publication(
            DEAD_EXCHANGE,
            TRACKER_QUEUE,
            item.delivery.body,
            item.delivery.message_id,
            headers=headers | {HEADER_CODE: code, HEADER_REASON: reason[:_REASON_CHARACTERS]},
        )
        await when_available(lambda: self._broker.publish(publication), "the tracker's parking")


async def fold_facts(rows: Rows, facts: Sequence[Fact], links: Links, manifests: Manifests) -> None:
    """Folds a batch into the rows it is about; facts about unknown jobs change nothing."""
    found = await jobs.lock_jobs(rows, [fact.job_id for fact in facts])
    steps = await jobs.steps_by_job(rows, found)
    folds = {job_id: JobFold(rows, job, steps[job_id], links, manifests) for job_id, job in found.items() if job.status != jobs.UPLOADING}
    for fact in facts:
        fold = folds.get(fact.job_id)
        if fold is None:
            continue
        if isinstance(fact, WebhookAttempted):
            await deliveries.record_attempt(rows, fact)
        elif isinstance(fact, DeliveryDied):
            await deliveries.park(rows, fact.delivery_id)
        else:
            await fold.take(fact)


async def _settle(item: _Item) -> None:
    """Acks; a lease that is lost, or a broker that is away, brings it again, and folding it twice changes nothing."""
    if item.settled.is_set():
        return
    try:
        await item.delivery.ack()
    except (LeaseLost, DependencyUnavailable):
        logger.info("the lease of {} was lost: it comes again", item.delivery.message_id)
    item.settled.set()
