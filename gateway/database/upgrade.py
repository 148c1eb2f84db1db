"""Brings a database to the newest schema, at every start: programmatic Alembic, one gateway at a time."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from gateway.database.engine import Database, create_engine, database_errors

_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 0x6D657368  # "mesh": several gateways that start at once upgrade one after the other


async def upgrade(url: str) -> None:
    """Runs what migrations are missing. Raises DependencyUnavailable when the database is away."""
    database = create_engine(url)
    try:
        await upgrade_database(database)
    finally:
        await database.close()


async def upgrade_database(database: Database) -> None:
    """As `upgrade`, over an engine that is there."""
    engine = database.engine.execution_options(meshwork_write=True)
    with database_errors():
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    command.upgrade(configuration(connection), "head")


def configuration(connection: Connection) -> Config:
    """Alembic's, without an ini file, on this connection and in its transaction."""
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.attributes["connection"] = connection
    return config
