"""What the worker loop makes of failures: told, tried again, given up."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shared.broker.headers import message_headers
from shared.contracts.manifest import StageReport
from shared.contracts.messages import SPLIT_VERSION
from shared.contracts.routing import (
    EVENTS_EXCHANGE,
    HEADER_CODE,
    HEADER_JOB,
    HEADER_NEWER,
    HEADER_REASON,
    HEADER_STEP,
    RETRY_EXCHANGE,
    WORK_EXCHANGE,
)
from shared.errors import ChildDied, OutOfMemory, PermanentError, StageTimeout, TransientError
from shared.ports import Delivery, Publication
from shared.runtime.reading import count_header
from tests.support.builders import a_message, a_publication
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, ScriptedCompute, attempt_key, failing


async def test_a_permanent_error_is_committed(mesh: Mesh) -> None:
    """The manifest holds the error and what the stage could still say; nothing is forwarded."""
    report = StageReport(summary={"seen": 2})
    await mesh.worker("ingest", failing(PermanentError("TOO_FEW_IMAGES", "Only 2.", report=report)))
    message = a_message()

    await mesh.submit(message)
    failed = await mesh.event("stage.failed")
    await mesh.idle()

    manifest = await mesh.manifest(message)
    assert manifest.error is not None
    assert (manifest.error.code, manifest.error.message, manifest.report.summary) == ("TOO_FEW_IMAGES", "Only 2.", {"seen": 2})
    assert failed.manifest == attempt_key(manifest)
    assert mesh.waiting("stage.segmentation") == []


@pytest.mark.parametrize(("attempt", "queue"), [(1, "retry.10s"), (2, "retry.1m")])
@pytest.mark.parametrize("error", [TransientError("busy"), ChildDied("SIGSEGV"), StageTimeout(), ValueError("a bug in the loop")])
async def test_what_may_pass_is_tried_again(mesh: Mesh, attempt: int, queue: str, error: Exception) -> None:
    """10 s, then 1 min later, counted in the message."""
    await mesh.worker("ingest", failing(error))
    message = a_message(attempt=attempt)

    await mesh.submit(message)
    await mesh.arrival(queue)

    assert mesh.messages(queue) == [message.model_copy(update={"attempt": attempt + 1})]
    assert [event.type for event in mesh.events()] == ["stage.started"]


@pytest.mark.parametrize(
    ("error", "code"), [(TransientError("busy"), "INTERNAL"), (StageTimeout("slow"), "STAGE_TIMEOUT"), (ValueError("bug"), "INTERNAL")]
)
async def test_the_third_failure_is_given_up(mesh: Mesh, error: Exception, code: str) -> None:
    """It is parked with its code and reason, and the tracker sees it."""
    await mesh.worker("ingest", failing(error))
    message = a_message(attempt=3)

    await mesh.submit(message)
    dead = await mesh.arrival("dead.ingest")

    assert dead.headers[HEADER_CODE] == code
    assert dead.headers[HEADER_JOB] == message.job_id
    assert dead.publication.body == message.to_bytes()
    assert [told.publication.exchange for told in mesh.waiting("gateway.tracker")] == ["events", "dead"]


async def test_out_of_memory_is_tried_once_smaller(mesh: Mesh) -> None:
    """The next try computes at a lower resolution."""
    await mesh.worker("ingest", failing(OutOfMemory()))

    await mesh.submit(a_message())
    await mesh.arrival("retry.10s")

    assert [(message.reduction, message.attempt) for message in mesh.messages("retry.10s")] == [(1, 2)]


async def test_out_of_memory_again_is_final(mesh: Mesh) -> None:
    """The job fails with OUT_OF_MEMORY, as a committed failure."""
    await mesh.worker("ingest", failing(OutOfMemory()))
    message = a_message(reduction=1, attempt=2)

    await mesh.submit(message)
    await mesh.event("stage.failed")

    manifest = await mesh.manifest(message)
    assert manifest.error is not None
    assert (manifest.error.code, manifest.error.retryable, manifest.reduction) == ("OUT_OF_MEMORY", True, 1)


async def test_a_step_that_loses_its_workers_is_given_up(mesh: Mesh) -> None:
    """After five lost workers it is WORKER_LOST, before any work."""
    compute = ScriptedCompute("ingest")
    message = a_message()
    await mesh.submit(message)
    mesh.server.queues["stage.ingest"].ready[0].delivery_count = 5

    await mesh.worker("ingest", compute)
    dead = await mesh.arrival("dead.ingest")

    assert dead.headers[HEADER_CODE] == "WORKER_LOST"
    assert compute.tasks == []


async def test_a_step_that_was_resumed_too_often_is_given_up(mesh: Mesh) -> None:
    """The embedded mode counts restarts in the message."""
    await mesh.worker("ingest")

    await mesh.submit(a_message(resumed=5))

    assert (await mesh.arrival("dead.ingest")).headers[HEADER_CODE] == "WORKER_LOST"


async def test_a_committed_step_is_forwarded_however_often_workers_were_lost(mesh: Mesh) -> None:
    """Work that is done is never thrown away."""
    await mesh.worker("ingest")
    message = a_message()
    await mesh.submit(message)
    await mesh.arrival("stage.segmentation")

    await mesh.submit(message.model_copy(update={"resumed": 5}))
    await eventually(lambda: len(mesh.waiting("stage.segmentation")) == 2)


def broken_bodies() -> list[Any]:
    good = json.loads(a_message().to_bytes())
    return [
        pytest.param(b"\x00\xffnot json", id="bytes"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(json.dumps({"job_id": "x"}).encode(), id="missing field"),
        pytest.param(json.dumps({**good, "position": 99}).encode(), id="position beyond the slip"),
        pytest.param(json.dumps({**good, "position": -1}).encode(), id="negative position"),
        pytest.param(json.dumps({**good, "position": 2}).encode(), id="another stage's"),
        pytest.param(json.dumps({**good, "schema_version": "new"}).encode(), id="version is no number"),
        pytest.param(json.dumps({**good, "job_id": ""}).encode(), id="no id"),
        pytest.param(json.dumps({**good, "job_id": "a/../b"}).encode(), id="an id that leaves its folder"),
        pytest.param(json.dumps({**good, "job_id": "\ud800"}).encode(), id="half a surrogate pair"),
        pytest.param(json.dumps({**good, "metadata": {"\udfff": 1}}).encode(), id="half a surrogate pair where nobody looks"),
    ]


@pytest.mark.parametrize("body", broken_bodies())
async def test_what_nobody_can_read_is_given_up(mesh: Mesh, body: bytes) -> None:
    """It is parked with the reason; job and step travel in its headers; the queue moves on."""
    await mesh.worker("ingest")
    headers = message_headers("stage.work", "/test", "id", "job-1", "ingest")

    await mesh.gateway.publish(Publication(WORK_EXCHANGE, "stage.ingest", body, "id", "stage.work", headers))
    dead = await mesh.arrival("dead.ingest")
    await mesh.submit(a_message())
    await mesh.event("stage.completed")

    assert (dead.headers[HEADER_CODE], dead.headers[HEADER_JOB], dead.headers[HEADER_STEP]) == ("INTERNAL", "job-1", "ingest")
    assert dead.headers[HEADER_REASON]


ODD_VALUES = ["", "\ud800", "\0", "a/../b", "x" * 3000, -5, 0, 2**63, 10**400, None, [], {"": "\udfff"}, True, float("nan")]


async def test_no_value_of_any_field_holds_the_worker(mesh: Mesh) -> None:
    """Whatever is in a message that is JSON: it is settled one way or another, and the next one is taken."""
    await mesh.worker("ingest")
    good = a_message()
    whole, (step, *rest) = json.loads(good.to_bytes()), json.loads(good.to_bytes())["slip"]["steps"]
    odd = [{**whole, name: value} for name in whole for value in ODD_VALUES]
    odd += [{**whole, "slip": {**whole["slip"], "steps": [{**step, name: value}, *rest]}} for name in step for value in ODD_VALUES]
    for index, fields in enumerate(odd):
        await mesh.gateway.publish(replace(a_publication(good), body=json.dumps(fields).encode(), message_id=f"odd {index}"))
    await mesh.idle(60)
    assert mesh.brokers[0]._consumers[0].held == []

    message = a_message()
    await mesh.submit(message)
    await eventually(lambda: [event for event in mesh.events("stage.completed") if event.job_id == message.job_id])


@pytest.mark.parametrize("exchange", [EVENTS_EXCHANGE, RETRY_EXCHANGE])
async def test_what_cannot_be_settled_as_it_should_be_is_given_up(mesh: Mesh, exchange: str) -> None:
    """Left unsettled, it would hold the worker's only place while readiness says that it takes deliveries."""
    worker = await mesh.worker("ingest", failing(TransientError("busy")))
    publish = worker._broker.publish

    async def refused(publication: Publication) -> None:
        if publication.exchange in {exchange, RETRY_EXCHANGE}:
            raise ValueError("nothing that a broker takes")
        await publish(publication)

    worker._broker.publish = refused  # type: ignore[method-assign]
    message = a_message()
    await mesh.submit(message)
    dead = await mesh.arrival("dead.ingest")
    await mesh.idle()

    assert (dead.headers[HEADER_CODE], dead.headers[HEADER_JOB], dead.headers[HEADER_STEP]) == ("INTERNAL", message.job_id, "ingest")
    assert mesh.brokers[0]._consumers[0].held == []


async def test_a_newer_message_waits_for_the_upgrade(mesh: Mesh) -> None:
    """It comes back in a minute, unchanged and uncounted."""
    await mesh.worker("ingest")
    body = json.dumps({"schema_version": SPLIT_VERSION + 1, "whatever": True}).encode()

    await mesh.gateway.publish(Publication(WORK_EXCHANGE, "stage.ingest", body, "id", headers={HEADER_NEWER: 58}))
    put_back = await mesh.arrival("retry.1m")

    assert (put_back.headers[HEADER_NEWER], put_back.publication.body) == (59, body)


async def test_a_newer_message_is_given_up_after_an_hour(mesh: Mesh) -> None:
    """The upgrade did not come."""
    await mesh.worker("ingest")
    body = json.dumps({"schema_version": SPLIT_VERSION + 1}).encode()

    await mesh.gateway.publish(Publication(WORK_EXCHANGE, "stage.ingest", body, "id", headers={HEADER_NEWER: 60}))

    assert "newer" in str((await mesh.arrival("dead.ingest")).headers[HEADER_REASON])


@pytest.mark.parametrize("said", [None, float("inf"), float("nan"), [], {}, "x", -3])
def test_a_counter_that_is_no_number_counts_nothing(said: object) -> None:
    """Whoever may publish may write any type of AMQP into a header."""
    assert count_header(cast(Delivery, SimpleNamespace(headers={HEADER_NEWER: said})), HEADER_NEWER) == 0
