"""Every branch of the worker loop, on the broker and store in memory."""

import asyncio
import math

from shared.broker.headers import trace_id
from shared.contracts.manifest import ImageVerdict, StageReport
from shared.contracts.messages import StageMessage
from shared.contracts.request import ImageSource
from shared.contracts.routing import HEADER_JOB, HEADER_STEP
from shared.errors import PermanentError
from shared.runtime.compute import ComputeTask, OnProgress
from shared.storage import keys
from tests.support.builders import a_message, a_publication, a_slip, store_request
from tests.support.eventually import eventually
from tests.support.mesh import Gate, Mesh, ScriptedCompute, attempt_key, failing


async def test_a_job_goes_through_all_its_steps(mesh: Mesh) -> None:
    """Each step reads its inputs, commits a manifest that names its chain, forwards, and tells; nothing is left in a queue."""
    for stage in ("ingest", "segmentation", "sfm"):
        await mesh.worker(stage)
    message = a_message()

    await mesh.submit(message)
    await eventually(lambda: len(mesh.events("stage.completed")) == 3)
    await mesh.idle()

    first, second, third = [await mesh.manifest(message, position) for position in range(3)]
    assert await mesh.output(third) == "ingest;ingest;segmentation;sfm;"
    assert third.chain == (first.link(), second.link())
    assert [event.type for event in mesh.events()] == ["stage.started", "stage.completed"] * 3
    assert [event.manifest for event in mesh.events("stage.completed")] == [attempt_key(manifest) for manifest in (first, second, third)]  # type: ignore[union-attr]
    assert len({manifest.digest for manifest in (first, second, third)}) == 3
    assert (await mesh.store.get(attempt_key(third))) == (await mesh.store.get(keys.step_manifest(message.job_id, 2, "sfm")))


async def test_the_trace_goes_on_from_message_to_message(mesh: Mesh) -> None:
    """All messages of a job share one trace id, and carry job and step in their headers."""
    await mesh.worker("ingest")
    publication = a_publication(a_message())
    message = StageMessage.model_validate_json(publication.body)
    await store_request(mesh.store, message.job_id)

    await mesh.gateway.publish(publication)
    onward = await mesh.arrival("stage.segmentation")
    await mesh.event("stage.completed")

    assert trace_id(onward.headers) == trace_id(publication.headers)
    assert (onward.headers[HEADER_JOB], onward.headers[HEADER_STEP]) == (message.job_id, "segmentation")
    assert {trace_id(told.headers) for told in mesh.waiting("gateway.tracker")} == {trace_id(publication.headers)}


async def test_a_redelivery_forwards_instead_of_computing_again(mesh: Mesh) -> None:
    """The same message twice: one computation, two forwards of the same manifest."""
    compute = ScriptedCompute("ingest")
    await mesh.worker("ingest", compute)
    message = a_message()

    await mesh.submit(message)
    await mesh.arrival("stage.segmentation")
    await mesh.submit(message)
    await eventually(lambda: len(mesh.waiting("stage.segmentation")) == 2)

    assert len(compute.tasks) == 1
    assert len({told.manifest for told in mesh.events("stage.completed")}) == 1  # type: ignore[union-attr]


async def test_a_redelivery_of_a_failed_step_tells_again(mesh: Mesh) -> None:
    """A committed failure is found, not computed again."""
    compute = failing(PermanentError("TOO_FEW_IMAGES"))
    await mesh.worker("ingest", compute)
    message = a_message()

    await mesh.submit(message)
    await mesh.event("stage.failed")
    await mesh.submit(message)
    await eventually(lambda: len(mesh.events("stage.failed")) == 2)

    assert len(compute.tasks) == 1


async def test_a_stopped_job_is_acked_without_work(mesh: Mesh) -> None:
    """`stop` ends everything, also for a step that is committed already."""
    compute = ScriptedCompute("ingest")
    await mesh.worker("ingest", compute)
    message = a_message()
    await mesh.store.put(keys.stop(message.job_id), b"cancelled")

    await mesh.submit(message)
    await mesh.idle()

    assert compute.tasks == []
    assert mesh.events() == []


async def test_a_job_stopped_while_it_computes_ends_there(mesh: Mesh) -> None:
    """Nothing is committed, forwarded or told; the computation has ended."""
    gate = Gate()
    await mesh.worker("ingest", gate.compute)
    message = a_message()
    await mesh.submit(message)
    await gate.entered.wait()

    await mesh.store.put(keys.stop(message.job_id), b"cancelled")
    await mesh.idle()

    assert gate.compute.ended_early == 1
    assert [event.type for event in mesh.events()] == ["stage.started"]
    assert not await mesh.store.exists(keys.step_manifest(message.job_id, 0, "ingest"))
    assert mesh.waiting("stage.segmentation") == []


async def test_a_missing_previous_step_is_published(mesh: Mesh) -> None:
    """Whoever finds that the step before has no manifest asks for it, and acks."""
    await mesh.worker("segmentation")
    message = a_message(position=1)

    await mesh.submit(message)
    await mesh.arrival("stage.ingest")

    assert mesh.messages("stage.ingest") == [message.at(0)]


async def test_a_failed_previous_step_is_told(mesh: Mesh) -> None:
    """Whoever finds that the step before failed tells it again, in its name."""
    await mesh.worker("ingest", failing(PermanentError("TOO_FEW_IMAGES")))
    await mesh.worker("segmentation")
    message = a_message()
    await mesh.submit(message)
    await mesh.event("stage.failed")

    await mesh.submit(message.at(1))
    failed = await eventually(lambda: mesh.events("stage.failed")[1:])

    assert (failed[0].step, failed[0].position) == ("ingest", 0)  # type: ignore[union-attr]


async def test_two_workers_on_one_task_commit_once(mesh: Mesh) -> None:
    """Whoever finishes second forwards the first's manifest."""
    slow, fast = Gate(), Gate()
    await mesh.worker("ingest", slow.compute)
    await mesh.worker("ingest", fast.compute)
    message = a_message()
    await mesh.submit(message)
    await mesh.submit(message)
    await asyncio.gather(slow.entered.wait(), fast.entered.wait())

    fast.let_go.set()
    await mesh.arrival("stage.segmentation")
    winner = await mesh.manifest(message)
    slow.let_go.set()
    await eventually(lambda: len(mesh.events("stage.completed")) == 2)

    assert await mesh.manifest(message) == winner
    assert {told.manifest for told in mesh.events("stage.completed")} == {attempt_key(winner)}  # type: ignore[union-attr]
    assert len({told.publication.message_id for told in mesh.waiting("stage.segmentation")}) == 1


async def test_uploads_reach_the_stage_that_needs_them(mesh: Mesh) -> None:
    """Photos that a caller uploaded lie in inputs/images/<nnn>_<name>, verified."""
    seen: dict[str, bytes] = {}

    async def look(task: ComputeTask, on_progress: OnProgress) -> None:
        folder = task.workspace / "inputs" / "images"
        seen.update({path.name: path.read_bytes() for path in folder.iterdir()})

    await mesh.worker("ingest", ScriptedCompute("ingest", look))
    message = a_message()
    key = keys.image(message.job_id, 1, "b.jpg")
    await mesh.store.put(key, b"photo")
    await store_request(mesh.store, message.job_id, [ImageSource(name="a.jpg", url="http://x/a.jpg"), ImageSource(name="b.jpg", key=key)])

    await mesh.submit(message, with_request=False)
    await mesh.event("stage.completed")

    assert seen == {"001_b.jpg": b"photo"}


async def test_a_request_that_is_not_there_yet_is_waited_for(mesh: Mesh) -> None:
    """Its absence passes, or the job is gone."""
    await mesh.worker("ingest")

    await mesh.submit(a_message(), with_request=False)

    assert (await mesh.arrival("retry.10s")).publication.routing_key == "10s.stage.ingest"


async def test_progress_is_told_once_a_second_and_per_percent(mesh: Mesh) -> None:
    """A burst of progress becomes one event; it never falls."""

    async def chatter(task: ComputeTask, on_progress: OnProgress) -> None:
        for i in range(100):
            await on_progress(i / 100, "matching")
        await asyncio.sleep(1.05)
        await on_progress(0.5, "matching")
        await on_progress(0.4, "matching")

    await mesh.worker("ingest", ScriptedCompute("ingest", chatter))

    await mesh.submit(a_message())
    await mesh.event("stage.completed")

    assert [event.fraction for event in mesh.events("stage.progress")] == [0.0, 0.5]  # type: ignore[union-attr]


async def test_what_is_no_finite_number_is_not_told(mesh: Mesh) -> None:
    """Neither as progress nor as a figure of a photo: JSON has no word for it, and whoever reads would refuse the whole."""

    async def script(task: ComputeTask, on_progress: OnProgress) -> StageReport:
        await on_progress(math.nan, "lost")
        await on_progress(math.inf, "further")
        return StageReport(images=(ImageVerdict(name="a.jpg", status="accepted", figures={"sharpness": math.nan, "noise": 0.5}),))

    await mesh.worker("ingest", ScriptedCompute("ingest", script))
    message = a_message()
    await mesh.submit(message)
    await mesh.event("stage.completed")
    assert [event.fraction for event in mesh.events("stage.progress")] == [0.0]  # type: ignore[union-attr]
    assert (await mesh.manifest(message)).report.images[0].figures == {"noise": 0.5}


async def test_the_digest_depends_on_params_and_inputs_alone(mesh: Mesh) -> None:
    """Two jobs that ask for the same share digests; other params do not."""
    for stage in ("ingest", "segmentation", "sfm"):
        await mesh.worker(stage)
    same, again, other = a_message(), a_message(), a_message(a_slip(params={"ingest": {"word": "other"}}))

    digests: list[str] = []
    for rounds, message in enumerate((same, again, other), start=1):
        await mesh.submit(message)
        await told_completed(mesh, 3 * rounds)
        digests += [(await mesh.manifest(message, position)).digest for position in range(3)]

    assert digests[:3] == digests[3:6]
    assert digests[6] != digests[0]


async def told_completed(mesh: Mesh, times: int) -> None:
    await eventually(lambda: len(mesh.events("stage.completed")) == times)
