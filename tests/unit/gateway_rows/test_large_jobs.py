"""Jobs of megabytes: a thousand links of four thousand characters. Whoever works many jobs at once leaves those where they are."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select, type_coerce
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.types import Text

from gateway.carrying_out import Carrier
from gateway.database import outbox, repositories
from gateway.database.admission import admit
from gateway.database.engine import Database
from gateway.database.models import Job
from gateway.database.repositories import JobRepository
from gateway.documents import job_document
from gateway.tracker import fold_facts
from shared.broker.memory import MemoryBroker
from shared.contracts.request import JobRequest
from shared.storage import keys
from shared.storage.directory import DirectoryStore
from tests.support.gateway_rows import (
    ALL_EVENTS,
    LINKS,
    TENANT,
    completed,
    insert,
    job_of,
    key_of,
    manifest_of,
    new_job,
    relay_settings,
    started,
)

LARGE = ("jobs.request", "jobs.report")


@contextmanager
def read_columns(database: Database) -> Iterator[list[str]]:
    """Which of the large columns were read meanwhile, once per statement."""
    found: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("SELECT", "WITH")):
            found.extend(column for column in LARGE if column in statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)


async def test_tracker_and_relay_leave_what_is_large_where_it_is(
    database: Database, broker: MemoryBroker, store: DirectoryStore, repository: JobRepository
) -> None:
    """From admission to the last webhook only a first publish reads the request; no column is fetched behind anybody's back."""
    job_id = await insert(database, new_job(callback_events=ALL_EVENTS))
    carrier, lease = Carrier(database, broker, store, relay_settings()), relay_settings().lease
    manifests = {key_of(m): m for m in (manifest_of(job_id, position) for position in range(3))}

    async def relay_round(kinds: tuple[str, ...]) -> int:
        async with database.write() as rows:
            await admit(rows, 8, 8)
            claims = await outbox.claim(rows, "relay", kinds, 8, lease)
        for claim in claims:
            await carrier.carry_out(claim)
        async with database.write() as rows:
            await outbox.mark_sent(rows, claims)
        return len(claims)

    with read_columns(database) as read:
        assert await relay_round(("publish",)) == 1
    assert read == ["jobs.request"]
    with read_columns(database) as read:
        async with database.write() as rows:
            await fold_facts(rows, [started(job_id, 0), *(completed(m) for m in manifests.values())], LINKS, manifests)
        while await relay_round(("publish", "webhook")):
            pass
        await repository.replay(TENANT, job_id, next(iter(await repository.deliveries_of(TENANT, job_id))).delivery.id)
        assert await relay_round(("replay",)) == 1
        assert (await repository.get_files(None, job_id)) is not None
    assert read == []
    assert ((await job_of(database, job_id)).status, (await job_of(database, job_id)).report["verdict"]) == ("completed", "warn")


async def test_a_step_that_is_published_again_reads_no_request(database: Database, broker: MemoryBroker, store: DirectoryStore) -> None:
    job_id = await insert(database)
    with read_columns(database) as read:
        await Carrier(database, broker, store, relay_settings()).carry_out(outbox.Claim(1, job_id, "publish", {"position": 1}))
    assert read == [] and len(broker.server.queues["stage.sfm"].ready) == 1


async def test_a_request_is_stored_as_it_was_asked(database: Database, broker: MemoryBroker, store: DirectoryStore) -> None:
    """Byte for byte what its model would write, without anybody having read it in between."""
    job_id = await insert(
        database, new_job(links=["http://photos.test/ü\U0001f5ff.jpg", "http://photos.test/%22.jpg", "http://a.test/\u2028"])
    )
    await Carrier(database, broker, store, relay_settings()).carry_out(outbox.Claim(1, job_id, "publish", {"position": 0}))
    stored = await store.get(keys.request(job_id))
    assert stored == JobRequest.model_validate((await job_of(database, job_id)).request).to_bytes()


async def test_a_column_that_nobody_named_is_refused(database: Database) -> None:
    """A mistake fails at once, with small jobs as with large ones."""
    job_id = await insert(database)
    async with database.read() as rows:
        job = await rows.session.get(Job, job_id)
        assert job is not None
        for column in ("request", "report"):
            with pytest.raises(InvalidRequestError):
                getattr(job, column)


async def test_a_link_is_kept_once(database: Database, repository: JobRepository) -> None:
    """In the request; the document has it beside what became of its photo, from rows of earlier versions, too."""
    links = [f"http://photos.test/{'é' * 4000}/{index}" for index in range(3)]
    job_id = await insert(database, new_job(links=links))
    async with database.read() as rows:
        text = await rows.session.scalar(select(type_coerce(Job.images, Text)).where(Job.id == job_id))
    assert text is not None and len(text) < 500

    async def shown() -> list[dict[str, Any]]:
        record = await repository.get_job(TENANT, job_id)
        assert record is not None
        images: list[dict[str, Any]] = job_document(record, LINKS)["images"]
        return images

    expected = [{"name": f"{index}.jpg", "url": url, "status": "pending", "reason": None} for index, url in enumerate(links)]
    assert await shown() == expected
    async with database.write() as rows:
        job = await rows.session.get(Job, job_id)
        assert job is not None
        job.images = expected
    assert json.dumps(await shown()) == json.dumps(expected)


async def test_few_documents_are_in_memory_at_once(database: Database, repository: JobRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask for jobs and for pages of them; a record is its document before the next is read."""
    job_id, now, most = await insert(database), 0, 0
    with_steps = repositories._with_steps

    async def watched(*given: Any) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        return await with_steps(*given)

    async def ask(number: int) -> None:
        nonlocal now
        await (repository.get_job(TENANT, job_id) if number % 2 else repository.list_jobs(TENANT))
        now -= 1

    monkeypatch.setattr(repositories, "_with_steps", watched)
    await asyncio.gather(*(ask(number) for number in range(24)))
    assert (most, now) == (repositories.DOCUMENTS_AT_ONCE, 0)
