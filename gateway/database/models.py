"""Tables. JSON is kept as text: what parsers and databases disagree about (huge integers, NUL) never reaches a database's own JSON type."""

import json
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import BigInteger, DateTime, Dialect, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))


class JsonText(TypeDecorator[Any]):
    """A JSON value as text. A pydantic model may be written, and is read as the object that it dumps."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        if isinstance(value, BaseModel):
            return value.model_dump_json()
        return None if value is None else _ENCODER.encode(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, aware in both databases."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


# Conditions of partial indexes and of the queries that use them, spelt once: a planner compares them by their text.
_WAITING = "status = 'queued' AND admitted_at IS NULL"
_IN_FLIGHT = "status IN ('queued', 'processing') AND admitted_at IS NOT NULL"
WAITING = text(_WAITING)  # not let in yet by the relay
IN_FLIGHT = text(_IN_FLIGHT)

# Columns of megabytes: a thousand links, or what the last stage had to say. Whoever did not ask for one is refused it, not served.
_ONLY_WHERE_NAMED: Any = {"deferred": True, "deferred_raiseload": True}

BigId = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """All tables."""


class Job(Base):
    """One job. `status`: uploading (hidden) -> queued -> processing -> completed | failed | cancelled."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("tenant", "idempotency_key"),
        Index("ix_jobs_listing", "tenant", "created_at", "id"),
        Index("ix_jobs_status", "status", "last_news_at"),
        Index("ix_jobs_finished", "finished_at"),
        Index("ix_jobs_waiting", "tenant", "priority", "created_at", "id", postgresql_where=WAITING, sqlite_where=WAITING),
        Index("ix_jobs_in_flight", "tenant", "status", postgresql_where=IN_FLIGHT, sqlite_where=IN_FLIGHT),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)  # uuid4
    tenant: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    stage: Mapped[str | None] = mapped_column(String(64))  # running or last step
    progress: Mapped[float] = mapped_column(Float, default=0.0)
    version: Mapped[int] = mapped_column(Integer, default=1)  # grows with every visible change: Last-Event-ID
    message: Mapped[str] = mapped_column(Text, default="")  # the latest progress sentence
    priority: Mapped[int] = mapped_column(Integer, default=0)  # 1: high
    pipeline: Mapped[str] = mapped_column(String(64))
    preset: Mapped[str] = mapped_column(String(64))
    slip: Mapped[Any] = mapped_column(JsonText)  # RoutingSlip
    request: Mapped[Any] = mapped_column(JsonText, **_ONLY_WHERE_NAMED)  # JobRequest
    metadata_: Mapped[Any] = mapped_column("metadata", JsonText)
    callback_url: Mapped[str | None] = mapped_column(Text)
    callback_events: Mapped[Any] = mapped_column(JsonText)
    images: Mapped[Any] = mapped_column(JsonText)  # [{"name", "status", "reason"}]; where each came from is in `request`
    warnings: Mapped[Any] = mapped_column(JsonText)  # [{"code", "message", "hint"}]
    error: Mapped[Any | None] = mapped_column(JsonText)
    artifacts: Mapped[Any] = mapped_column(JsonText)  # [{"name", "format", "bytes", "sha256", "key"}], frozen at the end
    report: Mapped[Any] = mapped_column(JsonText, **_ONLY_WHERE_NAMED)
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    body_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    admitted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # when the relay sent its first message
    last_news_at: Mapped[datetime] = mapped_column(UtcDateTime)  # for the sweeper


class StepRow(Base):
    """One step of a job. Status: pending -> processing -> completed | failed | cancelled; numbers merge by max."""

    __tablename__ = "steps"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    stage: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16), default="pending")
    fraction: Mapped[float] = mapped_column(Float, default=0.0)
    seconds: Mapped[float] = mapped_column(Float, default=0.0)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    resumed: Mapped[int] = mapped_column(Integer, default=0)  # embedded: restarts at this step
    manifest: Mapped[str | None] = mapped_column(Text)  # key of the attempt's manifest that events named


class OutboxRow(Base):
    """Something that the relay carries out. No foreign key: a purge outlives its job.

    `kind`: publish (a StageMessage) · stop (write the stop key) · webhook (store the body, publish the delivery) ·
    replay (publish a delivery once) · body (store a delivery's body again) · tidy (remove what only parts of steps needed) ·
    purge (remove everything of the job).
    """

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_due", "sent_at", "due_at", "id"),
        Index("ix_outbox_job", "job_id", "id"),
        {"sqlite_autoincrement": True},  # an id names one row for ever: whoever carries out a row marks it by its id, also when it is gone
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(String(36))
    kind: Mapped[str] = mapped_column(String(16))
    payload: Mapped[Any] = mapped_column(JsonText)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    sent_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


class DeliveryRow(Base):
    """One webhook of a job; its id is the webhook-id. Status: pending -> delivered | parked; delivered outranks parked."""

    __tablename__ = "deliveries"
    __table_args__ = (Index("ix_deliveries_job", "job_id"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)  # uuid5(job, type, step)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    type: Mapped[str] = mapped_column(String(32))
    step: Mapped[str | None] = mapped_column(String(64))
    url: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(16), default="pending")
    body: Mapped[str] = mapped_column(Text)  # frozen: the exact text that is signed and sent
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class DeliveryAttemptRow(Base):
    """One call of a delivery that has ended."""

    __tablename__ = "delivery_attempts"
    __table_args__ = (Index("ix_delivery_attempts_delivery", "delivery_id", "at"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    delivery_id: Mapped[str] = mapped_column(ForeignKey("deliveries.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    status_code: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str | None] = mapped_column(Text)
