"""The gateway's rows in tests: a database with a clock that tests move, jobs to put in it, and what workers would tell about them."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select

from gateway.carrying_out import RelaySettings
from gateway.database import jobs
from gateway.database.engine import Database
from gateway.database.models import DeliveryRow, Job, OutboxRow, StepRow
from gateway.database.records import ENDINGS, NewJob
from gateway.database.repositories import JobRepository
from gateway.links import Links
from shared.contracts.events import Event, StageCompleted, StageFailed, StageProgress, StageStarted, event_key
from shared.contracts.manifest import ChainLink, ImageVerdict, Manifest, OutputFile, StageReport, StepError, Warning
from shared.contracts.request import ImageSource
from shared.contracts.routing import EVENTS_EXCHANGE
from shared.contracts.slip import RoutingSlip
from shared.ports import ArtifactStore, Publication
from shared.sealing import new_seal_key
from shared.storage import keys
from tests.support.builders import a_request, a_slip

TENANT = "first"
STEPS = ("ingest", "sfm", "export")
ALL_EVENTS = ("job.started", "stage.completed", *ENDINGS)
LINKS = Links("https://mesh.test", ("link-secret",), timedelta(days=30))
SEAL_KEY = new_seal_key()
SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0LXRlc3Q="


class FakeClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **time: float) -> None:
        """`clock.pass_by(hours=1)`"""
        self.now += timedelta(**time)


def relay_settings(**changes: Any) -> RelaySettings:
    """Settings of a relay that polls often."""
    defaults: dict[str, Any] = {
        "secrets_of": lambda tenant: (SECRET,),
        "seal_key": SEAL_KEY,
        "webhook_schedule_s": (10.0, 60.0),
        "poll_s": 0.05,
    }
    return RelaySettings(**(defaults | changes))


def new_job(
    tenant: str = TENANT,
    slip: RoutingSlip | None = None,
    callback_events: Sequence[str] = ENDINGS,
    key: str | None = None,
    body: str = "same",
    priority: int = 0,
    metadata: Mapping[str, Any] | None = None,
    callback_url: str | None = "https://caller.test/hook",
    links: Sequence[str] | None = None,
) -> NewJob:
    """A job of three steps."""
    images = None if links is None else [ImageSource(name=f"{index}.jpg", url=url) for index, url in enumerate(links)]
    return NewJob(
        tenant=tenant,
        slip=slip or a_slip(STEPS),
        request=a_request(str(uuid.uuid4()), images),
        body_sha256=body,
        metadata=metadata or {"user_id": 123},
        callback_url=callback_url,
        callback_events=callback_events,
        idempotency_key=key,
        priority=priority,
    )


async def insert(database: Database, new: NewJob | None = None) -> str:
    """Puts a job in; its id."""
    return (await JobRepository(database, LINKS).insert_job(new or new_job())).job_id


def manifest_of(
    job_id: str, position: int, attempt: str = "a1", error: StepError | None = None, seconds: float | None = None, tries: int = 1
) -> Manifest:
    """What an attempt of a step of `STEPS` made, computed from the same attempt name of the steps before."""
    outputs = tuple(OutputFile(name=name, bytes=10, sha256=f"{attempt}-{name}") for name in ("model.glb", "report.json", "internal.bin"))
    last = position == len(STEPS) - 1
    return Manifest(
        job_id=job_id,
        step=STEPS[position],
        position=position,
        stage=STEPS[position],
        stage_version="1",
        attempt=attempt,
        chain=tuple(ChainLink(step=STEPS[i], position=i, attempt=attempt) for i in range(position)),
        outputs=outputs if last else (),
        error=error,
        seconds=position + 1.5 if seconds is None else seconds,
        tries=tries,
        report=_report_of(position, last),
    )


def _report_of(position: int, last: bool) -> StageReport:
    verdicts = [
        (
            ImageVerdict(name="a.jpg", status="accepted"),
            ImageVerdict(name="b.jpg", status="accepted"),
            ImageVerdict(name="c.jpg", status="dropped", reason="TOO_BLURRED"),
        ),
        (ImageVerdict(name="a.jpg", status="registered"), ImageVerdict(name="b.jpg", status="dropped", reason="NOT_REGISTERED")),
        (),
    ][position]
    warnings = (Warning(code=f"W{position}", message="look at this"),)
    report: dict[str, Any] | None = {"verdict": "warn", "reasons": ["few photos"]} if last else None
    return StageReport(images=verdicts, warnings=warnings, job_report=report)


def key_of(manifest: Manifest) -> str:
    """Where the attempt's manifest is."""
    return keys.attempt_manifest(manifest.job_id, manifest.position, manifest.step, manifest.attempt)


def started(job_id: str, position: int, attempt: int = 1) -> StageStarted:
    """A worker took the step."""
    return StageStarted(job_id=job_id, step=STEPS[position], position=position, attempt=attempt)


def progressed(job_id: str, position: int, fraction: float) -> StageProgress:
    """The step is so far."""
    return StageProgress(job_id=job_id, step=STEPS[position], position=position, attempt=1, fraction=fraction, message=f"{fraction:.0%}")


def completed(manifest: Manifest) -> StageCompleted:
    """The step is committed."""
    return StageCompleted(
        job_id=manifest.job_id, step=manifest.step, position=manifest.position, attempt=manifest.tries, manifest=key_of(manifest)
    )


def stage_failed(manifest: Manifest) -> StageFailed:
    """The step failed for good."""
    return StageFailed(
        job_id=manifest.job_id, step=manifest.step, position=manifest.position, attempt=manifest.tries, manifest=key_of(manifest)
    )


async def store_manifest(store: ArtifactStore, manifest: Manifest) -> Manifest:
    """Puts a manifest where its event says."""
    await store.put(key_of(manifest), manifest.to_bytes())
    return manifest


def told(event: Event) -> Publication:
    """The event as it travels."""
    return Publication(EVENTS_EXCHANGE, event_key(event), event.to_bytes(), str(uuid.uuid4()), event.type)


async def job_of(database: Database, job_id: str) -> Job:
    """The whole row."""
    async with database.read() as rows:
        job = await rows.session.get(Job, job_id, options=jobs.WHOLE)
    assert job is not None
    return job


async def steps_of(database: Database, job_id: str) -> list[StepRow]:
    """Its steps."""
    async with database.read() as rows:
        return await jobs.steps_of(rows, job_id)


async def deliveries_of(database: Database, job_id: str) -> list[DeliveryRow]:
    """Its webhooks."""
    async with database.read() as rows:
        return list(await rows.session.scalars(select(DeliveryRow).where(DeliveryRow.job_id == job_id).order_by(DeliveryRow.id)))


async def outbox_of(database: Database, job_id: str, unsent: bool = True) -> list[OutboxRow]:
    """Its outbox rows, those still to be carried out unless said otherwise."""
    query = select(OutboxRow).where(OutboxRow.job_id == job_id).order_by(OutboxRow.id)
    async with database.read() as rows:
        return list(await rows.session.scalars(query.where(OutboxRow.sent_at.is_(None)) if unsent else query))
