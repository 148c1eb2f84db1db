"""SQLite gives the id of the newest row again once that row is gone; a relay that marks what it sent must not hit another row."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = "id, job_id, kind, payload, due_at, sent_at, lease_owner, lease_until"
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """On PostgreSQL ids come from a sequence."""
    _rebuild(autoincrement=True)


def downgrade() -> None:
    """As it was."""
    _rebuild(autoincrement=False)


def _rebuild(autoincrement: bool) -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    op.rename_table("outbox", "outbox_before")
    op.drop_index("ix_outbox_due")
    op.drop_index("ix_outbox_job")
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String(36), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("due_at", _MOMENT, nullable=False),
        sa.Column("sent_at", _MOMENT),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("lease_until", _MOMENT),
        sqlite_autoincrement=autoincrement,
    )
    op.execute(f"INSERT INTO outbox ({_COLUMNS}) SELECT {_COLUMNS} FROM outbox_before")  # noqa: S608 - nothing from outside
    op.drop_table("outbox_before")
    op.create_index("ix_outbox_due", "outbox", ["sent_at", "due_at", "id"])
    op.create_index("ix_outbox_job", "outbox", ["job_id", "id"])
