"""Jobs, webhooks and outbox: the same promises on SQLite and on PostgreSQL."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import select

from gateway.database import outbox, repositories
from gateway.database.admission import admit
from gateway.database.engine import Database, create_engine
from gateway.database.models import Job, OutboxRow
from gateway.database.quota import JobQuota
from gateway.database.records import IdempotencyConflict, InsertedJob, JobFinished, JobMissing, QuotaExceeded
from gateway.database.repositories import JobRepository
from gateway.tracker import fold_facts
from tests.support.gateway_rows import (
    ALL_EVENTS,
    LINKS,
    TENANT,
    completed,
    deliveries_of,
    insert,
    job_of,
    key_of,
    manifest_of,
    new_job,
    outbox_of,
    started,
    steps_of,
)


async def complete(database: Database, job_id: str) -> None:
    manifests = {key_of(m): m for m in (manifest_of(job_id, position) for position in range(3))}
    async with database.write() as rows:
        await fold_facts(rows, [completed(manifest_of(job_id, 2))], LINKS, manifests)


async def test_a_job_comes_back_as_it_was_put_in(database: Database, repository: JobRepository) -> None:
    """Row, steps and first outbox row, with times of the database; odd metadata unchanged."""
    metadata = {"big": 10**40, "nul": "\0", "emoji": "🗿", "nested": [{"a": None}], "float": 1e-300}
    new = new_job(metadata=metadata)
    inserted = await repository.insert_job(new)
    assert (inserted.job_id, inserted.status, inserted.created) == (new.id, "queued", True)
    record = await repository.get_job(TENANT, new.id)
    assert record is not None
    assert (record.job.metadata_, record.job.request["images"][0]["name"], record.queue_position) == (metadata, "a.jpg", 1)
    assert record.job.created_at.utcoffset() == timedelta(0)
    assert abs(await repository.now() - record.job.created_at) < timedelta(seconds=5)
    assert [(step.name, step.status) for step in record.steps] == [("ingest", "pending"), ("sfm", "pending"), ("export", "pending")]
    assert [row.kind for row in await outbox_of(database, new.id)] == ["publish"]


async def test_eight_inserts_with_one_key_make_one_job(database: Database, repository: JobRepository) -> None:
    """All get the winner's id; one outbox row; another body is a conflict; another tenant's key is its own."""
    key = str(uuid.uuid4())
    inserted = await asyncio.gather(*(repository.insert_job(new_job(key=key)) for _ in range(8)))
    assert Counter(one.created for one in inserted) == {True: 1, False: 7}
    (job_id,) = {one.job_id for one in inserted}
    assert len(await outbox_of(database, job_id)) == 1
    with pytest.raises(IdempotencyConflict):
        await repository.insert_job(new_job(key=key, body="another"))
    assert (await repository.insert_job(new_job("other", key=key))).created
    await repository.delete_job(TENANT, job_id)
    assert (await repository.insert_job(new_job(key=key, body="another"))).created  # the key lives as long as the job


async def test_uploads_race_for_a_key_too(database: Database, repository: JobRepository) -> None:
    """One is released; the others' photos are purged and their callers get the winner."""
    key, uploads = str(uuid.uuid4()), [new_job() for _ in range(4)]
    for upload in uploads:
        await repository.begin_upload(TENANT, upload.id)
    released = await asyncio.gather(*(repository.release_upload(_keyed(upload, key)) for upload in uploads))
    (winner,) = {one.job_id for one in released}
    for upload in uploads:
        kinds = [row.kind for row in await outbox_of(database, upload.id)]
        assert kinds == (["publish"] if upload.id == winner else ["purge", "purge"])


def _keyed(new, key: str):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(new, idempotency_key=key)


async def test_an_upload_is_hidden_until_it_is_released(database: Database, repository: JobRepository) -> None:
    """Not found, not listed, not cancelled; then a queued job like any other."""
    new = new_job()
    await repository.begin_upload(TENANT, new.id)
    assert await repository.get_job(TENANT, new.id) is None
    assert (await repository.list_jobs(TENANT)).records == ()
    for call in (repository.cancel_job, repository.delete_job, repository.deliveries_of):
        with pytest.raises(JobMissing):
            await call(TENANT, new.id)
    await repository.release_upload(new)
    assert (await repository.get_job(TENANT, new.id)) is not None
    assert [step.name for step in await steps_of(database, new.id)] == ["ingest", "sfm", "export"]
    with pytest.raises(JobMissing):
        await repository.release_upload(new)


async def test_an_abandoned_upload_is_purged(database: Database, repository: JobRepository) -> None:
    """At once; a released job is never abandoned by a late call."""
    hidden, released = new_job(), new_job()
    for new in (hidden, released):
        await repository.begin_upload(TENANT, new.id)
    await repository.release_upload(released)
    for new in (hidden, released):
        await repository.abandon_upload(TENANT, new.id)
    assert [row.kind for row in await outbox_of(database, hidden.id)] == ["purge", "purge"]
    assert (await job_of(database, released.id)).status == "queued"


@pytest.fixture
async def replicas(database: Database, url: str) -> AsyncIterator[list[JobRepository]]:
    """Two gateways on one database: the tenant may have three unfinished jobs, others any number."""
    quota, second = JobQuota(lambda tenant: 3 if tenant == TENANT else 0), create_engine(url)
    yield [JobRepository(each, LINKS, quota=quota) for each in (database, second)]
    await second.close()


async def test_a_quota_holds_for_inserts_side_by_side(database: Database, replicas: list[JobRepository]) -> None:
    """Of forty in two gateways three are made, of another tenant all; what is refused leaves nothing, and an end makes room for one."""
    news = [new_job() for _ in range(40)]
    others = [new_job("other") for _ in range(10)]
    calls = (replicas[index % 2].insert_job(new) for index, new in enumerate(news + others))
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert Counter(type(one) for one in found[:40]) == {InsertedJob: 3, QuotaExceeded: 37}
    assert all(isinstance(one, InsertedJob) for one in found[40:])
    made = [one.job_id for one in found if isinstance(one, InsertedJob)]
    async with database.read() as rows:
        assert set(await rows.session.scalars(select(Job.id))) == set(made)
        assert Counter(await rows.session.scalars(select(OutboxRow.job_id))) == Counter(made)
    await replicas[0].cancel_job(TENANT, made[0])
    found = await asyncio.gather(*(replica.insert_job(new_job()) for replica in replicas for _ in range(4)), return_exceptions=True)
    assert Counter(type(one) for one in found) == {InsertedJob: 1, QuotaExceeded: 7}


async def test_a_quota_holds_for_uploads_and_links_side_by_side(replicas: list[JobRepository]) -> None:
    """Hidden rows take places as jobs do; those that have theirs are released."""
    news = [new_job() for _ in range(20)]

    async def begun(index: int) -> bool:
        new, replica = news[index], replicas[index % 2]
        if index % 4 < 2:
            return (await replica.insert_job(new)).created
        await replica.begin_upload(TENANT, new.id)
        return (await replica.release_upload(new)).created

    found = await asyncio.gather(*(begun(index) for index in range(20)), return_exceptions=True)
    assert Counter(one if one is True else type(one) for one in found) == {True: 3, QuotaExceeded: 17}


async def test_repeated_requests_take_no_place(replicas: list[JobRepository]) -> None:
    """Of each of three keys one job is made, whoever comes first, and everybody with that key gets it; a fourth key is too much."""
    calls = [replicas[index % 2].insert_job(new_job(key=f"key {index % 3}")) for index in range(24)]
    inserted = await asyncio.gather(*calls)
    assert Counter(one.created for one in inserted) == {True: 3, False: 21}
    assert [len({one.job_id for one in inserted[key::3]}) for key in range(3)] == [1, 1, 1]
    both = await asyncio.gather(*(replicas[0].insert_job(new_job(key=key)) for key in ("key 3", "key 0")), return_exceptions=True)
    assert isinstance(both[0], QuotaExceeded) and isinstance(both[1], InsertedJob) and both[1].job_id == inserted[0].job_id
    with pytest.raises(IdempotencyConflict):
        await replicas[0].insert_job(new_job(key="key 0", body="another"))


async def test_a_repeated_upload_is_no_way_around_a_quota(database: Database, replicas: list[JobRepository]) -> None:
    """It is let in at full quota, for it gets its earlier job; with that one deleted meanwhile it would be one job more."""
    repository, first, again = replicas[0], new_job(key="key"), new_job(key="key")
    await repository.insert_job(first)
    await complete(database, first.id)
    for _ in range(3):
        await repository.insert_job(new_job())
    await repository.begin_upload(TENANT, again.id, "key")
    for key in (None, "another"):
        with pytest.raises(QuotaExceeded):
            await repository.begin_upload(TENANT, str(uuid.uuid4()), key)
    await repository.delete_job(TENANT, first.id)
    with pytest.raises(QuotaExceeded):
        await repository.release_upload(again)


async def test_a_cursor_walks_every_job_once(repository: JobRepository) -> None:
    """Newest first, also while others arrive; by status; nobody else's."""
    made = [(await repository.insert_job(new_job())).job_id for _ in range(7)]
    await repository.insert_job(new_job("other"))
    seen, cursor = [], None
    while True:
        page = await repository.list_jobs(TENANT, limit=3, cursor=cursor)
        seen += [record.job.id for record in page.records]
        await repository.insert_job(new_job())
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) and set(seen) == set(made)
    await repository.cancel_job(TENANT, made[0])
    assert [r.job.id for r in (await repository.list_jobs(TENANT, status="cancelled")).records] == [made[0]]


async def test_a_page_ends_where_its_jobs_are_large(repository: JobRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """By bytes, not characters, and with one job at least; the cursor walks every job once all the same."""
    monkeypatch.setattr(repositories, "PAGE_BYTES", 20_000)
    made = [
        (await repository.insert_job(new_job(links=["http://photos.test/" + "ü" * size]))).job_id for size in (0, 4000, 0, 4000, 15_000)
    ]
    pages, cursor = [], None
    while not pages or cursor is not None:
        page = await repository.list_jobs(TENANT, limit=10, cursor=cursor)
        pages.append([record.job.id for record in page.records])
        cursor = page.next_cursor
    assert pages == [made[4:], made[3::-1]]


@pytest.mark.parametrize("cursor", ["", "none of ours", "é", "AAAA", "MjAyNi0wMS0wMSB4", "\0", "//=="])
async def test_a_cursor_that_is_none_of_ours_is_refused(repository: JobRepository, cursor: str) -> None:
    """ValueError, never a driver's error."""
    with pytest.raises(ValueError, match="unknown cursor"):
        await repository.list_jobs(TENANT, cursor=cursor)


@pytest.mark.parametrize("job_id", ["", "none", "\0" * 36, "x" * 36, "é" * 36, "0" * 10_000])
async def test_an_id_however_spelt_is_missing(repository: JobRepository, job_id: str) -> None:
    """And another tenant's is as missing as one that never was."""
    known = (await repository.insert_job(new_job())).job_id
    for tenant, each in ((TENANT, job_id), ("other", known)):
        assert await repository.get_job(tenant, each) is None
        for call in (repository.cancel_job, repository.delete_job, repository.deliveries_of):
            with pytest.raises(JobMissing):
                await call(tenant, each)
        with pytest.raises(JobMissing):
            await repository.replay(tenant, each, job_id)
    assert await repository.get_files(None, job_id) is None


async def test_cancel_and_completion_race_to_one_ending(database: Database, repository: JobRepository) -> None:
    """Whoever decides first decides alone: one terminal webhook, which agrees with the row."""
    endings = Counter[str]()
    for _ in range(12):
        job_id = await insert(database, new_job(callback_events=("job.completed", "job.cancelled")))
        calls = [repository.cancel_job(TENANT, job_id), complete(database, job_id), repository.cancel_job(TENANT, job_id)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        job = await job_of(database, job_id)
        endings[job.status] += 1
        assert [row.type for row in await deliveries_of(database, job_id)] == [f"job.{job.status}"]
        refused = sum(isinstance(result, JobFinished) for result in results)
        assert refused == (1 if job.status == "cancelled" else 2)
        assert bool(job.artifacts) == (job.status == "completed")
    assert endings.total() == 12


async def test_trackers_that_fold_the_same_events_at_once_agree(database: Database) -> None:
    """Duplicates on several replicas: each webhook once, no deadlock."""
    job_ids = [await insert(database, new_job(callback_events=ALL_EVENTS)) for _ in range(5)]
    manifests = {key_of(m): m for job_id in job_ids for m in (manifest_of(job_id, position) for position in range(3))}
    facts = [
        fact for job_id in job_ids for fact in (started(job_id, 0), completed(manifest_of(job_id, 0)), completed(manifest_of(job_id, 2)))
    ]

    async def fold(order: int) -> None:
        async with database.write() as rows:
            await fold_facts(rows, facts[::order], LINKS, manifests)

    await asyncio.gather(fold(1), fold(-1), fold(1), fold(-1))
    for job_id in job_ids:
        assert Counter(row.type for row in await deliveries_of(database, job_id)) == {
            "job.started": 1,
            "stage.completed": 3,
            "job.completed": 1,
        }


async def test_three_relays_claim_each_row_once_and_in_order(database: Database) -> None:
    """A job's rows one after the other, `stop` first, each by one relay."""
    job_ids = [await insert(database) for _ in range(10)]
    async with database.write() as rows:
        await admit(rows, 100, 100)
        for job_id in job_ids:
            for kind in ("webhook", "webhook", "stop"):
                rows.to_outbox(job_id, kind, {})
    worked: list[tuple[str, str, int]] = []

    async def work(owner: str) -> None:
        while True:
            async with database.write() as rows:
                claims = await outbox.claim(rows, owner, ("publish", "webhook", "stop"), 4, timedelta(seconds=60))
            if not claims:
                if len(worked) == 40:
                    return
                await asyncio.sleep(0.01)
                continue
            worked.extend((claim.job_id, claim.kind, claim.id) for claim in claims)
            async with database.write() as rows:
                await outbox.mark_sent(rows, claims)

    await asyncio.wait_for(asyncio.gather(*(work(name) for name in "abc")), 60)
    for job_id in job_ids:
        mine = [(kind, row_id) for each, kind, row_id in worked if each == job_id]
        assert [kind for kind, _ in mine] == ["stop", "publish", "webhook", "webhook"]
        assert mine[2][1] < mine[3][1]


async def test_replicas_let_each_job_in_once_and_never_too_many(database: Database) -> None:
    """Admission at once on several replicas keeps to IN_FLIGHT."""
    for _ in range(12):
        await insert(database)

    async def let_in() -> int:
        async with database.write() as rows:
            return await admit(rows, in_flight=5, limit=3)

    counts = [sum(await asyncio.gather(*(let_in() for _ in range(3)))) for _ in range(4)]
    assert sum(counts) == 5


async def test_delete_removes_everything_but_the_purge(database: Database, repository: JobRepository) -> None:
    """Steps, deliveries and unsent rows go with the job."""
    job_id = await insert(database)
    await complete(database, job_id)
    await repository.delete_job(TENANT, job_id)
    assert await repository.get_job(TENANT, job_id) is None
    assert (await steps_of(database, job_id), await deliveries_of(database, job_id)) == ([], [])
    due = [row.due_at for row in await outbox_of(database, job_id)]
    assert [row.kind for row in await outbox_of(database, job_id)] == ["purge", "purge"] and due[1] - due[0] == timedelta(days=1)
    with pytest.raises(JobMissing):
        await repository.delete_job(TENANT, job_id)


async def test_live_states_tell_what_changed(database: Database, repository: JobRepository) -> None:
    """Only what is newer than seen; None for a job that is gone."""
    quiet, moving, gone = [await insert(database) for _ in range(3)]
    seen = {job_id: (await job_of(database, job_id)).version for job_id in (quiet, moving)} | {gone: 1}
    assert await repository.versions_since(seen) == {}
    async with database.write() as rows:
        await fold_facts(rows, [started(moving, 1)], LINKS, {})
    await repository.delete_job(TENANT, gone)
    changed = await repository.versions_since(seen)
    assert changed.keys() == {moving, gone} and changed[gone] is None
    state = changed[moving]
    assert state is not None and (state.status, state.stage) == ("processing", "sfm") and state.version > seen[moving]


async def test_concurrent_writers_never_see_a_locked_database(database: Database, repository: JobRepository, url: str) -> None:
    """Inserts, cancels and folds at once, from two engines on the same database."""
    other = JobRepository(create_engine(url), LINKS)

    async def one(index: int) -> None:
        each = repository if index % 2 else other
        job_id = (await each.insert_job(new_job())).job_id
        async with database.write() as rows:
            await fold_facts(rows, [started(job_id, 0)], LINKS, {})
        await each.cancel_job(TENANT, job_id)

    await asyncio.gather(*(one(index) for index in range(30)))
    assert len((await repository.list_jobs(TENANT, status="cancelled", limit=50)).records) == 30
    await other._database.close()
