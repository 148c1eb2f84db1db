"""Facts folded into rows: any order, any number of times, the same row."""

import json
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.database.engine import Database, create_engine
from gateway.database.repositories import JobRepository
from gateway.database.upgrade import upgrade_database
from gateway.documents import job_document
from gateway.folding import merge_verdicts
from gateway.news import Fact, StepDied
from gateway.tracker import fold_facts
from shared.contracts.manifest import EXPANDED, ImageVerdict, Manifest, StepError
from tests.support.gateway_rows import (
    ALL_EVENTS,
    LINKS,
    STEPS,
    TENANT,
    FakeClock,
    completed,
    deliveries_of,
    insert,
    job_of,
    key_of,
    manifest_of,
    new_job,
    outbox_of,
    progressed,
    stage_failed,
    started,
    steps_of,
)

BAD_PHOTOS = StepError(code="TOO_FEW_REGISTERED", message="too few", hint="more overlap")


async def fold(database: Database, facts: Sequence[Fact], manifests: Sequence[Manifest] = ()) -> None:
    async with database.write() as rows:
        await fold_facts(rows, facts, LINKS, {key_of(manifest): manifest for manifest in manifests})


async def picture(database: Database, job_id: str) -> dict[str, Any]:
    """Everything about a job that must not depend on the order of facts."""
    job, steps = await job_of(database, job_id), await steps_of(database, job_id)
    names = ("status", "stage", "progress", "images", "warnings", "error", "artifacts", "report", "started_at", "finished_at")
    known = {name: getattr(job, name) for name in names}
    if (job.error or {}).get("code") == "WORKER_LOST":
        known |= {"images": [], "warnings": []}  # what was known by then, as its webhook says
    return {
        **known,
        "steps": [(s.name, s.status, s.fraction, s.seconds, s.attempts) for s in steps],
        "webhooks": sorted((d.type, d.step or "", said_in_any_order(d.body)) for d in await deliveries_of(database, job_id)),
        "outbox": sorted({row.kind for row in await outbox_of(database, job_id)}),
    }


def said_in_any_order(body: str) -> str:
    """A lost worker commits nothing, so its job's webhook tells of the photos what was known by then."""
    said = json.loads(body)
    if (said.get("error") or {}).get("code") == "WORKER_LOST":
        said |= {"warnings": [], "dropped": {}}
    return json.dumps(said)


def anonymous(value: Any, job_id: str) -> Any:
    """Without what differs between two jobs: the id, and the signatures over it."""
    text = json.dumps(value, default=str).replace(job_id, "JOB")
    return [part.split('"')[0] and part[64:] if i else part for i, part in enumerate(text.split("signature="))]


Story = Callable[[str], tuple[list[Fact], list[Manifest]]]


def success(job_id: str) -> tuple[list[Fact], list[Manifest]]:
    """A job that went well, its second step at the second attempt."""
    manifests = [manifest_of(job_id, position, tries=2 if position == 1 else 1) for position in range(len(STEPS))]
    facts: list[Fact] = [*(started(job_id, i) for i in range(len(STEPS))), started(job_id, 1, attempt=2)]
    return [*facts, progressed(job_id, 1, 0.5), progressed(job_id, 2, 0.9), *(completed(manifest) for manifest in manifests)], manifests


def failure(job_id: str) -> tuple[list[Fact], list[Manifest]]:
    """A job whose second step failed for good."""
    manifests = [manifest_of(job_id, 0), manifest_of(job_id, 1, error=BAD_PHOTOS)]
    return [
        started(job_id, 0),
        completed(manifests[0]),
        started(job_id, 1),
        progressed(job_id, 1, 0.3),
        stage_failed(manifests[1]),
    ], manifests


def loss(job_id: str) -> tuple[list[Fact], list[Manifest]]:
    """A job whose second step lost its workers."""
    manifests = [manifest_of(job_id, 0)]
    died = StepDied(job_id, STEPS[1], "WORKER_LOST", "")
    return [started(job_id, 0), completed(manifests[0]), started(job_id, 1), died], manifests


async def _told(database: Database, story: Story, order: Callable[[list[Fact]], list[Fact]], webhooks: Sequence[str]) -> Any:
    job_id = await insert(database, new_job(callback_events=webhooks))
    facts, manifests = story(job_id)
    for fact in order(facts):
        await fold(database, [fact], manifests)
    return anonymous(await picture(database, job_id), job_id)


async def in_a_fresh_database(test: Callable[[Database], Coroutine[Any, Any, None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = create_engine(f"sqlite+aiosqlite:///{Path(folder)}/rows.db", FakeClock())
        await upgrade_database(database)
        await test(database)
        await database.close()


# A failed job tells no stage.completed after its end: which ones it told before depends on what came first.
STORIES = {"success": (success, ALL_EVENTS), "failure": (failure, ALL_EVENTS), "loss": (loss, ("job.started", "job.failed"))}


@pytest.mark.parametrize("name", STORIES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
async def test_any_order_and_repetition_gives_the_same_row(name: str, data: st.DataObject) -> None:
    """Events shuffled, and some of them told twice, come to the row, the webhooks and the outbox of events told in order."""
    story, webhooks = STORIES[name]

    def shuffled(facts: list[Fact]) -> list[Fact]:
        again = data.draw(st.lists(st.sampled_from(facts), max_size=4))
        return data.draw(st.permutations([*facts, *again]))

    async def compare(database: Database) -> None:
        assert await _told(database, story, shuffled, webhooks) == await _told(database, story, list, webhooks)

    await in_a_fresh_database(compare)


async def test_a_completed_job_has_everything_of_its_chain(database: Database) -> None:
    """The last step's manifest alone fills in what no event told: steps, verdicts, warnings, webhooks."""
    job_id = await insert(database, new_job(callback_events=ALL_EVENTS))
    manifests = [manifest_of(job_id, position) for position in range(3)]
    await fold(database, [completed(manifests[2])], manifests)
    job = await job_of(database, job_id)
    assert (job.status, job.progress, job.stage) == ("completed", 100.0, "export")
    assert [(step.status, step.seconds) for step in await steps_of(database, job_id)] == [
        ("completed", 1.5),
        ("completed", 2.5),
        ("completed", 3.5),
    ]
    assert [(i["name"], i["status"], i["reason"]) for i in job.images] == [
        ("a.jpg", "registered", None),
        ("b.jpg", "dropped", "NOT_REGISTERED"),
        ("c.jpg", "dropped", "TOO_BLURRED"),
    ]
    assert [warning["code"] for warning in job.warnings] == ["W0", "W1", "W2"]
    assert [artifact["name"] for artifact in job.artifacts] == ["model.glb", "report.json"]
    assert [d.type for d in await deliveries_of(database, job_id)].count("stage.completed") == 3
    assert [row.kind for row in await outbox_of(database, job_id)] == [*["webhook"] * 5, "tidy"]  # publish was not needed any more


async def test_verdicts_come_from_the_chain_that_won(database: Database) -> None:
    """What a duplicate attempt said about photos is forgotten when the job completes through another."""
    job_id = await insert(database)
    lost = manifest_of(job_id, 1, attempt="lost")
    lost = lost.model_copy(
        update={
            "report": lost.report.model_copy(update={"images": (ImageVerdict(name="a.jpg", status="dropped", reason="NOT_REGISTERED"),)})
        }
    )
    won = [manifest_of(job_id, position) for position in range(3)]
    await fold(database, [completed(lost), completed(won[2])], [lost, *won])
    assert (await job_of(database, job_id)).images[0]["status"] == "registered"


HELD = [{"name": "1.jpg", "source": "b.jpg"}, {"name": "2.jpg", "source": "b.jpg"}]


def with_an_archive(job_id: str, attempt: str = "a1") -> list[Manifest]:
    """A job whose second file was an archive of two photos, the second of which was not placed."""
    told = (
        (
            ImageVerdict(name="a.jpg", status="accepted"),
            ImageVerdict(name="b.jpg", status=EXPANDED),
            ImageVerdict(name="1.jpg", status="accepted", source="b.jpg"),
            ImageVerdict(name="2.jpg", status="accepted", source="b.jpg"),
            ImageVerdict(name="c.jpg", status="dropped", reason="CORRUPT_ARCHIVE"),
        ),
        (ImageVerdict(name="1.jpg", status="registered"), ImageVerdict(name="2.jpg", status="dropped", reason="NOT_REGISTERED")),
        (),
    )
    manifests = [manifest_of(job_id, position, attempt) for position in range(3)]
    return [
        m.model_copy(update={"report": m.report.model_copy(update={"images": images})}) for m, images in zip(manifests, told, strict=True)
    ]


async def test_photos_out_of_an_archive_follow_it(database: Database) -> None:
    """As soon as ingest has told; each with what became of it, and a name to tell where it came from."""
    job_id = await insert(database)
    manifests = with_an_archive(job_id)
    await fold(database, [completed(manifests[0])], manifests)
    images = (await job_of(database, job_id)).images
    assert [(i["name"], i["status"]) for i in images] == [
        ("a.jpg", "accepted"),
        ("b.jpg", "expanded"),
        ("1.jpg", "accepted"),
        ("2.jpg", "accepted"),
        ("c.jpg", "dropped"),
    ]
    assert [{key: image[key] for key in ("name", "source")} for image in images if "source" in image] == HELD
    await fold(database, [completed(manifests[1])], manifests)
    assert [i["status"] for i in (await job_of(database, job_id)).images] == ["accepted", "expanded", "registered", "dropped", "dropped"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
async def test_archives_come_to_the_same_row_in_any_order(data: st.DataObject) -> None:
    """A later step may be heard first, or an attempt that lost; the end has all of the chain that won and nothing else."""

    def story(job_id: str) -> tuple[list[Fact], list[Manifest]]:
        won, lost = with_an_archive(job_id), with_an_archive(job_id, "lost")[0]
        other = (*lost.report.images[:2], ImageVerdict(name="9.jpg", status="accepted", source="b.jpg"))
        lost = lost.model_copy(update={"report": lost.report.model_copy(update={"images": other})})
        return [completed(manifest) for manifest in (lost, *won)], [lost, *won]

    async def compare(database: Database) -> None:
        assert await _told(database, story, lambda facts: data.draw(st.permutations(facts)), ()) == await _told(database, story, list, ())

    await in_a_fresh_database(compare)


async def test_progress_never_falls(database: Database) -> None:
    """Late news of an earlier step, or of an earlier moment, leaves progress where it was."""
    job_id = await insert(database)
    seen = []
    for fact in (
        progressed(job_id, 1, 0.5),
        progressed(job_id, 0, 0.9),
        progressed(job_id, 1, 0.2),
        started(job_id, 0),
    ):
        await fold(database, [fact])
        seen.append((await job_of(database, job_id)).progress)
    assert seen == [50.0] * 4
    assert (await job_of(database, job_id)).message == "50%"


async def test_webhooks_are_listed_in_the_order_of_what_they_tell(database: Database, repository: JobRepository) -> None:
    """Also those that one batch decided, at one moment: started, each step, the end."""
    job_id = await insert(database, new_job(callback_events=ALL_EVENTS))
    facts, manifests = success(job_id)
    await fold(database, facts, manifests)
    listed = [(record.delivery.type, record.delivery.step) for record in await repository.deliveries_of(TENANT, job_id)]
    steps = [("stage.completed", step) for step in STEPS]
    assert listed == [("job.started", None), *steps, ("job.completed", None)]


async def test_what_comes_after_the_end_changes_no_ending(database: Database, repository: JobRepository) -> None:
    """A cancelled job stays cancelled, with one webhook, whatever workers still tell."""
    job_id = await insert(database)
    await repository.cancel_job(TENANT, job_id)
    facts, manifests = success(job_id)
    await fold(database, [*facts, stage_failed(manifests[1])], manifests)
    job = await job_of(database, job_id)
    assert (job.status, job.artifacts, job.error) == ("cancelled", [], None)
    assert [d.type for d in await deliveries_of(database, job_id)] == ["job.cancelled"]
    assert [row.kind for row in await outbox_of(database, job_id)] == ["stop", "webhook", "tidy"]


async def test_what_a_failed_jobs_webhook_told_is_what_get_says(database: Database, repository: JobRepository) -> None:
    """A step whose end is heard of later has verdicts and warnings of its own: the ending has been told without them."""
    job_id = await insert(database)
    facts, manifests = loss(job_id)
    await fold(database, facts[-1:])
    await fold(database, facts[:-1], manifests)
    record = await repository.get_job(TENANT, job_id)
    assert record is not None and [step.status for step in record.steps] == ["completed", "failed", "pending"]
    body, document = json.loads((await deliveries_of(database, job_id))[0].body), job_document(record, LINKS)
    dropped = [image["name"] for image in document["images"] if image["status"] == "dropped"]
    assert (body["warnings"], [photo["name"] for photo in body["dropped"]["photos"]]) == (document["warnings"], dropped)


async def test_a_failure_says_why_and_stops_the_work(database: Database) -> None:
    """Error, failed step, stop before webhook; the photos' verdicts come with it."""
    job_id = await insert(database)
    facts, manifests = failure(job_id)
    await fold(database, facts, manifests)
    job = await job_of(database, job_id)
    assert job.error == {"code": "TOO_FEW_REGISTERED", "message": "too few", "stage": "sfm", "hint": "more overlap", "retryable": False}
    assert [step.status for step in await steps_of(database, job_id)] == ["completed", "failed", "pending"]
    assert [row.kind for row in await outbox_of(database, job_id)] == ["stop", "webhook", "tidy"]
    body = json.loads((await deliveries_of(database, job_id))[0].body)
    assert (body["type"], body["status"], body["error"]["stage"]) == ("job.failed", "failed", "sfm")


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [("WORKER_LOST", "", "WORKER_LOST"), ("OUT_OF_MEMORY", "6 GiB", "OUT_OF_MEMORY"), ("NO_SUCH_CODE", "Traceback …", "INTERNAL")],
)
async def test_a_dead_letter_ends_the_job_with_its_code(database: Database, code: str, reason: str, expected: str) -> None:
    """The code is kept when it is one of ours; what an internal error says stays inside."""
    job_id = await insert(database)
    await fold(database, [StepDied(job_id, "sfm", code, reason)])
    error = (await job_of(database, job_id)).error
    assert (error["code"], error["stage"]) == (expected, "sfm")
    assert "Traceback" not in error["message"]


async def test_a_last_manifest_that_is_gone_fails_the_job(database: Database) -> None:
    """A job is not completed without its artifacts, and does not wait for ever either."""
    job_id = await insert(database)
    await fold(database, [completed(manifest_of(job_id, 2))])
    job = await job_of(database, job_id)
    assert (job.status, job.error["code"]) == ("failed", "ARTIFACT_CORRUPT")


async def test_an_unknown_job_changes_nothing(database: Database) -> None:
    """Facts about a deleted job are taken without an error."""
    await fold(database, success("00000000-0000-4000-8000-000000000000")[0])


@given(
    st.lists(st.sampled_from([("accepted", None), ("registered", None), ("dropped", "A"), ("dropped", "B")]), max_size=6).flatmap(
        lambda v: st.tuples(st.just(v), st.permutations(v))
    )
)
def test_verdicts_merge_in_any_order(verdicts: tuple[list[tuple[str, str | None]], list[tuple[str, str | None]]]) -> None:
    """The verdict on a photo does not depend on which stage was heard first."""
    photo = [{"name": "a", "status": "pending", "reason": None}]
    one, other = (merge_verdicts(photo, [ImageVerdict(name="a", status=s, reason=r) for s, r in order]) for order in verdicts)
    assert one == other
