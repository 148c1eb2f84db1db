"""Jobs, steps, outbox, deliveries and their attempts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Makes the tables."""
    _jobs()
    _steps()
    _outbox()
    _deliveries()


def downgrade() -> None:
    """Removes them."""
    for table in ("delivery_attempts", "deliveries", "outbox", "steps", "jobs"):
        op.drop_table(table)


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("stage", sa.String(64)),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("pipeline", sa.String(64), nullable=False),
        sa.Column("preset", sa.String(64), nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("slip", "request", "metadata")),
        sa.Column("callback_url", sa.Text),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("callback_events", "images", "warnings")),
        sa.Column("error", sa.Text),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("artifacts", "report")),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("body_sha256", sa.String(64), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        *(sa.Column(name, _MOMENT) for name in ("started_at", "finished_at", "admitted_at")),
        sa.Column("last_news_at", _MOMENT, nullable=False),
        sa.UniqueConstraint("tenant", "idempotency_key"),
    )
    op.create_index("ix_jobs_listing", "jobs", ["tenant", "created_at", "id"])
    op.create_index("ix_jobs_status", "jobs", ["status", "last_news_at"])
    op.create_index("ix_jobs_finished", "jobs", ["finished_at"])
    waiting = sa.text("status = 'queued' AND admitted_at IS NULL")
    in_flight = sa.text("status IN ('queued', 'processing') AND admitted_at IS NOT NULL")
    op.create_index("ix_jobs_waiting", "jobs", ["tenant", "priority", "created_at", "id"], postgresql_where=waiting, sqlite_where=waiting)
    op.create_index("ix_jobs_in_flight", "jobs", ["tenant", "status"], postgresql_where=in_flight, sqlite_where=in_flight)


def _steps() -> None:
    op.create_table(
        "steps",
        sa.Column("job_id", sa.String(36), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("stage", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("fraction", sa.Float, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("resumed", sa.Integer, nullable=False),
        sa.Column("manifest", sa.Text),
    )


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", _BIG_ID, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String(36), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("due_at", _MOMENT, nullable=False),
        sa.Column("sent_at", _MOMENT),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("lease_until", _MOMENT),
    )
    op.create_index("ix_outbox_due", "outbox", ["sent_at", "due_at", "id"])
    op.create_index("ix_outbox_job", "outbox", ["job_id", "id"])


def _deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("job_id", sa.String(36), sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("step", sa.String(64)),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
    )
    op.create_index("ix_deliveries_job", "deliveries", ["job_id"])
    op.create_table(
        "delivery_attempts",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("delivery_id", sa.String(36), sa.ForeignKey("deliveries.id", ondelete="CASCADE"), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("status_code", sa.Integer),
        sa.Column("error", sa.Text),
    )
    op.create_index("ix_delivery_attempts_delivery", "delivery_attempts", ["delivery_id", "at"])
