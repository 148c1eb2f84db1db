"""What a worker tells about a step on `events`, and how it hands a step on."""

import asyncio
from datetime import datetime
from math import isfinite

from loguru import logger

from shared.broker.headers import message_headers
from shared.contracts.events import StageCompleted, StageFailed, StageProgress, StageStarted, event_key
from shared.contracts.messages import StageMessage
from shared.contracts.routing import EVENTS_EXCHANGE, WORK_EXCHANGE, deterministic_id, stage_queue
from shared.errors import LeaseLost
from shared.ports import Broker, Delivery, Publication
from shared.runtime.patience import PatientPublisher

PROGRESS_EVERY_S = 1.0
STAGE_MESSAGE = "stage.work"  # CloudEvents type of what travels on `work`

StepEvent = StageStarted | StageProgress | StageCompleted | StageFailed


class Teller:
    """Publishes on behalf of one delivery. Once its lease is lost, nothing."""

    def __init__(self, broker: Broker, publisher: PatientPublisher, delivery: Delivery, message: StageMessage, now: datetime) -> None:
        self._broker = broker
        self._publisher = publisher
        self._delivery = delivery
        self._message = message
        self._now = now
        self._told_at = float("-inf")
        self._told_percent = -1

    async def started(self) -> None:
        """A worker took the step."""
        message = self._message
        event = StageStarted(job_id=message.job_id, step=message.step.name, position=message.position, attempt=message.attempt)
        await self._tell(event, message.attempt, message.resumed, message.corrupt_findings, message.reduction)

    async def completed(self, manifest_key: str) -> None:
        """The step is committed."""
        message = self._message
        await self._tell(
            StageCompleted(
                job_id=message.job_id, step=message.step.name, position=message.position, attempt=message.attempt, manifest=manifest_key
            ),
            manifest_key,
        )

    async def failed(self, position: int, manifest_key: str) -> None:
        """A step (this one, or an earlier one) failed for good."""
        message = self._message
        step = message.slip.steps[position].name
        await self._tell(
            StageFailed(job_id=message.job_id, step=step, position=position, attempt=message.attempt, manifest=manifest_key), manifest_key
        )

    async def progress(self, fraction: float, sentence: str) -> None:
        """At most once a second and per percent; dropped where the broker does not take it."""
        now, percent = asyncio.get_running_loop().time(), int(100 * min(max(fraction, 0.0), 1.0)) if isfinite(fraction) else 0
        if percent <= self._told_percent or now - self._told_at < PROGRESS_EVERY_S or self._delivery.lease_lost:
            return
        self._told_at, self._told_percent = now, percent
        message = self._message
        event = StageProgress(
            job_id=message.job_id,
            step=message.step.name,
            position=message.position,
            attempt=message.attempt,
            fraction=percent / 100,
            message=sentence,
        )
        try:
            await self._broker.publish(self._event_publication(event, ("progress", message.attempt, percent), transient=True))
        except Exception as error:  # the computation does not end because nobody hears how far it is
            logger.debug("progress was not told: {}", error)

    async def hand_on(self, message: StageMessage) -> None:
        """Publishes a step of the same job."""
        self._check_lease()
        headers = message_headers(
            STAGE_MESSAGE, self._source, message.message_id, message.job_id, message.step.name, self._delivery.headers, self._now
        )
        key = stage_queue(message.step.stage)
        await self._publisher.publish(
            Publication(WORK_EXCHANGE, key, message.to_bytes(), message.message_id, STAGE_MESSAGE, headers),
        )

    @property
    def _source(self) -> str:
        return f"/meshwork/{self._message.step.stage}"

    async def _tell(self, event: StepEvent, *identity: str | int) -> None:
        self._check_lease()
        await self._publisher.publish(self._event_publication(event, identity, transient=False))

    def _event_publication(self, event: StepEvent, identity: tuple[str | int, ...], transient: bool) -> Publication:
        event_id = deterministic_id(event.job_id, event.step, event.type, *identity)
        headers = message_headers(event.type, self._source, event_id, event.job_id, event.step, self._delivery.headers, self._now)
        return Publication(EVENTS_EXCHANGE, event_key(event), event.to_bytes(), event_id, event.type, headers, transient)

    def _check_lease(self) -> None:
        if self._delivery.lease_lost:
            raise LeaseLost
