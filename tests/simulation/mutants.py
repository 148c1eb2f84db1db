"""The protocol with one line broken: a simulation that does not notice proves nothing."""

import uuid
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any
from unittest import mock

import gateway.carrying_out as carrying_out
import gateway.endings as endings
import gateway.tracker as tracker
import gateway.webhook_bodies as webhook_bodies
import services.webhooks.consumer as webhooks
import shared.broker.memory_server as memory_server
import shared.broker.settlement as settlement
import shared.runtime.making as making
import shared.runtime.turn as turn
from gateway.database import deliveries, jobs, outbox
from gateway.database.engine import Rows
from gateway.folding import JobFold
from shared.contracts.manifest import ChainLink, Manifest, StageReport
from shared.contracts.routing import DEAD_EXCHANGE, TRACKER_QUEUE
from shared.errors import ObjectMissing
from shared.ports import Broker, Delivery, Publication
from shared.runtime.manifests import attempt_manifest
from shared.runtime.patience import PatientStore
from shared.storage import keys
from tests.simulation import part_mutants

Patch = Any


def _endings_without_guard() -> Patch:
    """The tracker ends a job whatever its status is."""

    async def decide(rows: Rows, job_id: str, status: str, among: tuple[str, ...]) -> bool:
        return await jobs.decide(rows, job_id, status, (*among, "completed", "failed", "cancelled"))

    patched = mock.Mock(wraps=jobs)
    patched.decide = decide
    together = ExitStack()
    together.enter_context(mock.patch.object(endings, "jobs", patched))
    together.enter_context(mock.patch.object(JobFold, "_unfinished", property(lambda self: True)))
    return together


def _verdicts_after_the_end() -> Patch:
    """What is heard of a step once its job has ended joins the job's warnings and verdicts."""
    take = JobFold._take_report

    def take_always(fold: JobFold, report: StageReport) -> None:
        with mock.patch.object(JobFold, "_unfinished", property(lambda self: True)):
            take(fold, report)

    return mock.patch.object(JobFold, "_take_report", take_always)


def _chain_read_directly() -> Patch:
    """Inputs come from whatever manifest each earlier step has now, not from the chain of the previous one."""

    async def chain_of(store: PatientStore, previous: Manifest | None) -> tuple[Manifest, ...]:
        return () if previous is None else (*[await direct(store, previous.job_id, link) for link in previous.chain], previous)

    async def direct(store: PatientStore, job_id: str, link: ChainLink) -> Manifest:
        try:
            return Manifest.model_validate_json(await store.get(keys.step_manifest(job_id, link.position, link.step)))
        except ObjectMissing:  # taken back just now
            return await attempt_manifest(store, job_id, link)

    return mock.patch.object(making, "chain_of", chain_of)


def _stored_late(method: str) -> Patch:
    """What this method of the carrier stores is stored once it has returned."""
    real = getattr(carrying_out.Carrier, method)

    async def carry_out(self: carrying_out.Carrier, claim: Any) -> None:
        late: list[tuple[str, bytes]] = []

        class Late:
            async def put(self, key: str, data: bytes) -> None:
                late.append((key, data))

        await real(carrying_out.Carrier(self.database, self.broker, Late(), self.settings), claim)  # type: ignore[arg-type]
        for key, data in late:
            await self.store.put(key, data)

    return mock.patch.object(carrying_out.Carrier, method, carry_out)


def _body_after_publish() -> Patch:
    """A webhook's body is stored once its delivery was published."""
    return _stored_late("_send_webhook")


def _ack_before_publish() -> Patch:
    """What is published again (a retry, a parking) is acked first."""

    async def ack_first(
        broker: Broker, delivery: Delivery, exchange: str, key: str, body: bytes, message_id: str, extra_headers: Any
    ) -> None:
        await delivery.ack()
        headers = settlement.carried_over(delivery.headers) | dict(extra_headers or {})
        await broker.publish(Publication(exchange, key, body, message_id, settlement.event_type_of(headers), headers))

    return mock.patch.object(settlement, "_publish_then_ack", ack_first)


def _ack_before_forward() -> Patch:
    """A committed step is acked before the next one is published."""

    async def conclude(self: turn.Turn, committed: Manifest, outcome: str) -> str:
        settled = await self._done(outcome)
        if committed.error is not None:
            await self._tell.failed(self._message.position, turn.attempt_key(committed))
            return settled
        if not self._message.slip.is_last(self._message.position):
            await self._tell.hand_on(self._message.at(self._message.position + 1))
        await self._tell.completed(turn.attempt_key(committed))
        return settled

    return mock.patch.object(turn.Turn, "_conclude", conclude)


def _publish_before_request() -> Patch:
    """The first message is published before request.json is stored."""
    return _stored_late("_publish")


def _one_purge() -> Patch:
    """A deleted job is purged once: what a stalled worker writes afterwards stays."""
    real = Rows.to_outbox

    def to_outbox(self: Rows, job_id: str, kind: str, payload: Any, due_at: Any = None) -> None:
        if kind != "purge" or due_at is None:
            real(self, job_id, kind, payload, due_at)

    return mock.patch.object(Rows, "to_outbox", to_outbox)


def _shared_prefix() -> Patch:
    """All attempts of a step write under one prefix."""

    def attempt_file(job_id: str, position: int, step: str, attempt: str, name: str) -> str:
        return f"{keys.step_prefix(job_id, position, step)}attempt/{name}"

    return mock.patch.object(keys, "attempt_file", attempt_file)


def _repair_own_step_only() -> Patch:
    """A corrupt input is not taken back from the step that made it."""

    async def take_back(store: Any, message: Any, finding: Any) -> Any:
        return message.model_copy(update={"corrupt_findings": 0})

    return mock.patch.object(turn, "take_back", take_back)


def _tracker_acks_first() -> Patch:
    """The tracker acks a batch before its transaction is committed."""
    real = tracker.Tracker._fold

    async def work(self: tracker.Tracker, batch: Any) -> None:
        readable = [item for item in batch if not item.settled.is_set() and await self._read(item)]
        for item in batch:
            await tracker._settle(item)
        facts = [item.fact for item in readable if item.fact is not None]
        if facts:
            await real(self, facts)

    return mock.patch.object(tracker.Tracker, "_work", work)


def _deleted_is_called() -> Patch:
    """The webhooks service does not look whether its job was deleted, and keeps bodies in memory."""
    real = webhooks.prepare
    bodies: dict[str, Any] = {}

    async def prepare(message: Any, store: Any) -> Any:
        if message.delivery_id not in bodies:
            prepared = await real(message, store)
            if not isinstance(prepared, webhooks.Prepared):
                return prepared
            bodies[message.delivery_id] = prepared
        return webhooks.Prepared(message, bodies[message.delivery_id].body)

    return mock.patch.object(webhooks, "prepare", prepare)


def _bodies_unverified() -> Patch:
    """The webhooks service sends whatever the store gives it."""
    real = webhooks.prepare

    async def prepare(message: Any, store: Any) -> Any:
        return await real(message.model_copy(update={"body_sha256": None}), store)

    return mock.patch.object(webhooks, "prepare", prepare)


def _relay_marks_first() -> Patch:
    """The relay marks a row as sent when it takes it."""
    real = outbox.claim

    async def claim(rows: Rows, *given: Any) -> Any:
        claims = await real(rows, *given)
        if claims:
            await outbox.mark_sent(rows, claims)
        return claims

    return mock.patch.object(outbox, "claim", claim)


def _parked_outranks_delivered() -> Patch:
    """A delivery that arrived is parked when a copy of its message is given up."""

    def park(delivery: Any) -> None:
        delivery.status = "parked"

    return mock.patch.object(deliveries, "_park", park)


def _parked_before_its_last_call() -> Patch:
    """A delivery is given up one call early."""
    real = webhooks.what_follows

    def what_follows(message: Any, called: Any) -> Any:
        return real(message.model_copy(update={"schedule_s": message.schedule_s[:-1]}), called)

    return mock.patch.object(webhooks, "what_follows", what_follows)


def _random_webhook_id() -> Patch:
    """A webhook's id does not follow from what it tells."""
    return mock.patch.object(webhook_bodies, "deterministic_id", lambda *parts: str(uuid.uuid4()))


def _held_while_away() -> Patch:
    """What has not begun to compute is held for as long as its step may take."""
    real = turn.Turn.__init__

    def init(self: turn.Turn, *given: Any) -> None:
        real(self, *given)
        self._store.patience.extend(self._message.step.hard_limit_s)

    return mock.patch.object(turn.Turn, "__init__", init)


def _given_up_too_soon() -> Patch:
    """A step is given up when two workers were lost on it."""
    return mock.patch.object(turn, "MAX_LOST_WORKERS", 2)


def _dead_letters_untold() -> Patch:
    """The tracker's queue is not bound to `dead`."""
    real = memory_server._is_bound

    def is_bound(queue: Any, exchange: str, routing_key: str) -> bool:
        return real(queue, exchange, routing_key) and (queue.name, exchange) != (TRACKER_QUEUE, DEAD_EXCHANGE)

    return mock.patch.object(memory_server, "_is_bound", is_bound)


def _inputs_unverified() -> Patch:
    """Inputs are taken as they are."""
    real = PatientStore.download

    async def download(self: PatientStore, key: str, path: Any, sha256: str | None) -> int:
        return await real(self, key, path, None)

    return mock.patch.object(PatientStore, "download", download)


MUTANTS: dict[str, Callable[[], Patch]] = {
    "endings-without-guard": _endings_without_guard,
    "verdicts-after-the-end": _verdicts_after_the_end,
    "chain-read-directly": _chain_read_directly,
    "bodies-unverified": _bodies_unverified,
    "body-after-publish": _body_after_publish,
    "ack-before-publish": _ack_before_publish,
    "ack-before-forward": _ack_before_forward,
    "publish-before-request": _publish_before_request,
    "one-purge": _one_purge,
    "held-while-away": _held_while_away,
    "shared-prefix": _shared_prefix,
    "repair-own-step-only": _repair_own_step_only,
    "tracker-acks-first": _tracker_acks_first,
    "deleted-is-called": _deleted_is_called,
    "relay-marks-first": _relay_marks_first,
    "parked-outranks-delivered": _parked_outranks_delivered,
    "parked-before-its-last-call": _parked_before_its_last_call,
    "random-webhook-id": _random_webhook_id,
    "dead-letters-untold": _dead_letters_untold,
    "given-up-too-soon": _given_up_too_soon,
    "inputs-unverified": _inputs_unverified,
    "parts-share-a-key": part_mutants.parts_share_a_key,
    "last-part-alone-gathers": part_mutants.last_part_alone_gathers,
    "made-part-says-nothing": part_mutants.made_part_says_nothing,
    "ack-before-parts": part_mutants.ack_before_parts,
    "replaced-before-publish": part_mutants.replaced_before_publish,
    "part-alone-is-reduced": part_mutants.part_alone_is_reduced,
    "marked-before-publish": part_mutants.marked_before_publish,
    "everybody-closes": part_mutants.everybody_closes,
}


def broken(mutant: str | None) -> Any:
    """The context in which this mutant lives; None: the protocol as it is."""
    return MUTANTS[mutant]() if mutant else nullcontext()
