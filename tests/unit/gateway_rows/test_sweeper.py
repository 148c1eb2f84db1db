"""The sweeper finds lost work, and only that."""

from datetime import timedelta

import pytest

from gateway.carrying_out import RelaySettings
from gateway.database.engine import Database
from gateway.database.repositories import JobRepository
from gateway.relay import Relay
from gateway.sweeper import Sweeper
from gateway.tracker import fold_facts
from shared.broker.memory import MemoryBroker
from shared.storage.directory import DirectoryStore
from tests.support.gateway_rows import (
    LINKS,
    TENANT,
    FakeClock,
    completed,
    insert,
    manifest_of,
    outbox_of,
    relay_settings,
    started,
)


@pytest.fixture
def settings() -> RelaySettings:
    return relay_settings()


@pytest.fixture
def sweeper(database: Database, broker: MemoryBroker) -> Sweeper:
    return Sweeper(database, broker, min_silence=timedelta(seconds=10))


@pytest.fixture
async def lost(database: Database, broker: MemoryBroker, store: DirectoryStore, settings: RelaySettings) -> str:
    """A job whose second step's message is gone; a step's hard limit is 60 s."""
    job_id = await insert(database)
    await Relay(database, broker, store, settings).run_once()
    broker.server.queues["stage.ingest"].ready.clear()
    async with database.write() as rows:
        await fold_facts(rows, [completed(manifest_of(job_id, 0)), started(job_id, 1, attempt=2)], LINKS, {})
    return job_id


async def swept(database: Database, sweeper: Sweeper, job_id: str) -> list[dict[str, int]]:
    await sweeper.run_once()
    return [row.payload for row in await outbox_of(database, job_id)]


async def test_a_silent_job_is_published_again_at_its_step(database: Database, sweeper: Sweeper, lost: str, clock: FakeClock) -> None:
    """After the step's hard limit, once, with its counters."""
    clock.pass_by(seconds=59)
    assert await swept(database, sweeper, lost) == []
    clock.pass_by(seconds=2)
    assert await swept(database, sweeper, lost) == [{"position": 1, "attempt": 2, "resumed": 0}]
    assert len(await swept(database, sweeper, lost)) == 1


async def test_two_sweepers_publish_it_once(
    database: Database, broker: MemoryBroker, sweeper: Sweeper, lost: str, clock: FakeClock
) -> None:
    """Replicas that look at the same moment see each other's row."""
    clock.pass_by(minutes=2)
    await sweeper.run_once()
    await Sweeper(database, broker).run_once()
    assert len(await outbox_of(database, lost)) == 1


async def test_a_queue_with_messages_is_waited_for_a_day(
    database: Database, broker: MemoryBroker, sweeper: Sweeper, lost: str, clock: FakeClock
) -> None:
    """While there is a ready message it is most likely the job's own."""
    async with database.read():
        await broker.publish(_filler())
    clock.pass_by(hours=23)
    assert await swept(database, sweeper, lost) == []
    clock.pass_by(hours=2)
    assert len(await swept(database, sweeper, lost)) == 1


def _filler():  # type: ignore[no-untyped-def]
    from tests.support.builders import a_message, a_publication, a_slip

    return a_publication(a_message(a_slip(("ingest", "sfm")), position=1))


async def test_a_job_with_a_row_pending_is_left_alone(database: Database, sweeper: Sweeper, lost: str, clock: FakeClock) -> None:
    """The relay has not sent its message yet."""
    async with database.write() as rows:
        rows.to_outbox(lost, "publish", {"position": 1})
    clock.pass_by(minutes=5)
    assert await swept(database, sweeper, lost) == [{"position": 1}]


async def test_a_job_that_waits_to_be_let_in_is_left_alone(database: Database, sweeper: Sweeper, clock: FakeClock) -> None:
    """However long it waits."""
    job_id = await insert(database)
    clock.pass_by(days=3)
    assert await swept(database, sweeper, job_id) == [{"position": 0}]


async def test_an_ended_job_is_left_alone(
    database: Database, repository: JobRepository, sweeper: Sweeper, lost: str, clock: FakeClock
) -> None:
    """There is nothing to bring on."""
    await repository.cancel_job(TENANT, lost)
    clock.pass_by(days=3)
    await sweeper.run_once()
    assert [row.kind for row in await outbox_of(database, lost)] == ["stop", "webhook", "tidy"]
