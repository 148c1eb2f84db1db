"""Alembic's entry: runs on the connection, and in the transaction, that gateway/database/upgrade.py opened."""

from alembic import context

from gateway.database.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes tables by copying them
)
context.run_migrations()
