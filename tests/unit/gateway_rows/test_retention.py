"""What is kept no longer."""

import uuid
from datetime import timedelta

import pytest

from gateway.database.engine import Database
from gateway.database.models import Job
from gateway.database.records import JobMissing
from gateway.database.repositories import JobRepository
from gateway.relay import Relay
from gateway.retention import Retention
from shared.broker.memory import MemoryBroker
from shared.storage import keys
from shared.storage.directory import DirectoryStore
from tests.support.gateway_rows import TENANT, FakeClock, insert, new_job, outbox_of, relay_settings


@pytest.fixture
def retention(database: Database) -> Retention:
    return Retention(database, timedelta(days=30))


async def exists(database: Database, job_id: str) -> bool:
    async with database.read() as rows:
        return await rows.session.get(Job, job_id) is not None


async def test_a_job_is_purged_after_its_retention(
    database: Database, repository: JobRepository, retention: Retention, clock: FakeClock
) -> None:
    """Thirty days after its end, not before; an unfinished one never."""
    ended, unfinished = await insert(database), await insert(database)
    await repository.cancel_job(TENANT, ended)
    clock.pass_by(days=29)
    await retention.run_once()
    assert await exists(database, ended)
    clock.pass_by(days=2)
    await retention.run_once()
    assert not await exists(database, ended) and await exists(database, unfinished)
    assert [row.kind for row in await outbox_of(database, ended)] == ["purge", "purge"]


async def test_an_upload_that_never_ends_is_purged_after_an_hour(
    database: Database, repository: JobRepository, retention: Retention, broker: MemoryBroker, store: DirectoryStore, clock: FakeClock
) -> None:
    """Row and photos; who comes too late with the rest is told."""
    new = new_job()
    await repository.begin_upload(TENANT, new.id)
    await store.put(keys.image(new.id, 0, "a.jpg"), b"x")
    clock.pass_by(minutes=61)
    await retention.run_once()
    await Relay(database, broker, store, relay_settings()).run_once()
    assert not await store.exists(keys.image(new.id, 0, "a.jpg"))
    with pytest.raises(JobMissing):
        await repository.release_upload(new)


async def test_rows_that_were_carried_out_are_forgotten_after_a_day(
    database: Database, retention: Retention, broker: MemoryBroker, store: DirectoryStore, clock: FakeClock
) -> None:
    """The outbox does not grow for ever."""
    job_id = await insert(database)
    await Relay(database, broker, store, relay_settings()).run_once()
    await retention.run_once()
    assert len(await outbox_of(database, job_id, unsent=False)) == 1
    clock.pass_by(days=2)
    await retention.run_once()
    assert await outbox_of(database, job_id, unsent=False) == []


async def test_many_are_purged_in_one_turn(database: Database, repository: JobRepository, retention: Retention, clock: FakeClock) -> None:
    """More than a page of abandoned uploads."""
    for _ in range(120):
        await repository.begin_upload(TENANT, str(uuid.uuid4()))
    clock.pass_by(hours=2)
    await retention.run_once()
    async with database.read() as rows:
        assert not list(await rows.session.scalars(Job.__table__.select()))
