"""What each kind of outbox row means. Every effect may come twice."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import Text, select, type_coerce

from gateway.database.engine import Database
from gateway.database.models import DeliveryRow, Job
from gateway.database.outbox import Claim
from gateway.database.records import UNFINISHED
from shared.contracts.messages import StageMessage, WebhookMessage
from shared.contracts.routing import HEADER_JOB, HEADER_STEP, WEBHOOKS_QUEUE, WORK_EXCHANGE, deterministic_id, stage_queue
from shared.contracts.slip import RoutingSlip
from shared.ports import ArtifactStore, Broker, Headers, Publication
from shared.sealing import seal
from shared.storage import keys

_REQUEST = type_coerce(Job.request, Text).label("request")  # as it was written: the bytes of a JobRequest
REQUESTS_AT_ONCE = 8  # each may be megabytes of links

MakeHeaders = Callable[[str, str, str, str | None], Headers]  # (type, message id, job id, step)


def plain_headers(kind: str, message_id: str, job_id: str, step: str | None) -> Headers:
    """Job and step alone; the composition root gives traces and CloudEvents attributes too."""
    return {HEADER_JOB: job_id} | ({HEADER_STEP: step} if step else {})


@dataclass(frozen=True)
class RelaySettings:
    """What the relay needs to know. `secrets_of`: a tenant's webhook secrets, the first one in use."""

    secrets_of: Callable[[str], Sequence[str]]
    seal_key: str
    webhook_schedule_s: tuple[float, ...] = ()
    in_flight: int = 100
    make_headers: MakeHeaders = plain_headers
    poll_s: float = 1.0
    lease: timedelta = timedelta(seconds=90)  # above a publish's deadline of 30 s and what is written before it
    at_once: int = 32


@dataclass(frozen=True)
class Carrier:
    """Carries out one row at a time. Raises DependencyUnavailable while broker, store or database are away."""

    database: Database
    broker: Broker
    store: ArtifactStore
    settings: RelaySettings
    requests: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(REQUESTS_AT_ONCE))

    async def carry_out(self, claim: Claim) -> None:
        """Does what the row says; nothing where its job or delivery is gone."""
        match claim.kind:
            case "publish":
                await self._publish(claim)
            case "stop":
                await self.store.put(keys.stop(claim.job_id), str(claim.payload["reason"]).encode(), "text/plain")
            case "webhook" | "replay":
                await self._send_webhook(claim)
            case "body":
                await self._store_body(claim)
            case "tidy":
                await self._tidy(claim.job_id)
            case "purge":
                await self._purge(claim.job_id)
            case _:
                raise ValueError(f"an outbox row of the unknown kind {claim.kind}")

    async def _publish(self, claim: Claim) -> None:
        is_first = claim.payload["position"] == 0
        async with self.requests if is_first else contextlib.nullcontext():
            slip = await self._slip_of_unfinished(claim.job_id, is_first)
        if slip is None:
            return
        message = StageMessage(job_id=claim.job_id, slip=slip, **claim.payload)
        step = message.step
        headers = self.settings.make_headers("stage.work", message.message_id, claim.job_id, step.name)
        publication = Publication(WORK_EXCHANGE, stage_queue(step.stage), message.to_bytes(), message.message_id, "stage.work", headers)
        await self.broker.publish(publication)

    async def _slip_of_unfinished(self, job_id: str, is_first: bool) -> RoutingSlip | None:
        """None where nothing is left to do. Before the first publish request.json is stored: no worker finds a message without it."""
        columns = (Job.status, Job.slip, _REQUEST) if is_first else (Job.status, Job.slip)
        async with self.database.read() as rows:
            job = (await rows.session.execute(select(*columns).where(Job.id == job_id))).one_or_none()
        if job is None or job.status not in UNFINISHED:
            return None
        if is_first:
            await self.store.put(keys.request(job_id), job.request.encode())
        return RoutingSlip.model_validate(job.slip)

    async def _send_webhook(self, claim: Claim) -> None:
        async with self.database.read() as rows:
            delivery = await rows.session.get(DeliveryRow, claim.payload["delivery_id"])
            tenant = await rows.session.scalar(select(Job.tenant).where(Job.id == claim.job_id))
        replay = str(claim.payload.get("replay", ""))
        if delivery is None or tenant is None or (delivery.status != "pending" and not replay):
            return
        body = delivery.body.encode()
        await self.store.put(keys.webhook_body(claim.job_id, delivery.id), body)  # first: a delivery without a body is dropped
        message = WebhookMessage(
            job_id=claim.job_id,
            delivery_id=delivery.id,
            type=delivery.type,
            url=delivery.url,
            sealed_secrets=seal(self.settings.secrets_of(tenant), self.settings.seal_key),
            attempt=int(claim.payload.get("attempt", 1)),
            schedule_s=self.settings.webhook_schedule_s,
            body_sha256=hashlib.sha256(body).hexdigest(),
            replay=replay,
            tenant=deterministic_id("tenant", tenant),
        )
        headers = self.settings.make_headers("webhook.work", message.message_id, claim.job_id, None)
        await self.broker.publish(
            Publication(WORK_EXCHANGE, WEBHOOKS_QUEUE, message.to_bytes(), message.message_id, "webhook.work", headers)
        )

    async def _store_body(self, claim: Claim) -> None:
        async with self.database.read() as rows:
            delivery = await rows.session.get(DeliveryRow, claim.payload["delivery_id"])
        if delivery is not None:
            await self.store.put(keys.webhook_body(delivery.job_id, delivery.id), delivery.body.encode())

    async def _tidy(self, job_id: str) -> None:
        """Removes what parts of steps made: the steps' own outputs are all that a job that ended is asked for."""
        found = await self.store.list(keys.job_prefix(job_id))
        if made_by_parts := [key for key in found if keys.is_of_part(key)]:
            await self.store.delete(made_by_parts)

    async def _purge(self, job_id: str) -> None:
        """Says that the job is gone, then removes everything else; both marks are left to the bucket's lifecycle."""
        marks = (keys.deleted(job_id), keys.stop(job_id))
        for mark in marks:
            await self.store.put(mark, b"deleted", "text/plain")
        found = await self.store.list(keys.job_prefix(job_id))
        if left := [key for key in found if key not in marks]:
            await self.store.delete(left)
