"""A database on a file of its own, an in-memory broker and a folder as the store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.database.engine import Database, create_engine
from gateway.database.repositories import JobRepository
from gateway.database.upgrade import upgrade_database
from shared.broker.memory import MemoryBroker
from shared.storage.directory import DirectoryStore
from tests.support.gateway_rows import LINKS, FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def database(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Database]:
    database = create_engine(f"sqlite+aiosqlite:///{tmp_path}/rows.db", clock)
    await upgrade_database(database)
    yield database
    await database.close()


@pytest.fixture
def repository(database: Database) -> JobRepository:
    return JobRepository(database, LINKS)


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    broker = MemoryBroker()
    await broker.connect()
    yield broker
    await broker.close()


@pytest.fixture
async def store(tmp_path: Path) -> DirectoryStore:
    store = DirectoryStore(tmp_path / "store")
    await store.prepare()
    return store
