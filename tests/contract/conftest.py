"""A database of either kind, empty."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.database.engine import Database, create_engine
from gateway.database.repositories import JobRepository
from gateway.database.upgrade import upgrade_database
from tests.support.gateway_rows import LINKS


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/rows.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = create_engine(url)
    await upgrade_database(database)
    async with database.write() as rows:
        for table in ("jobs", "outbox"):
            await rows.session.execute(text(f"DELETE FROM {table}"))
    yield database
    await database.close()


@pytest.fixture
def repository(database: Database) -> JobRepository:
    return JobRepository(database, LINKS)
