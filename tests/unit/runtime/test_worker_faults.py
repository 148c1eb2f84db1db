"""What a worker does when its lease, its process, a dependency or its child goes away."""

import asyncio
import errno
from pathlib import Path

import pytest

from shared.contracts.routing import HEADER_CODE, HEADER_REASON
from shared.errors import ChildDied
from shared.runtime.compute import ComputeTask, OnProgress
from shared.runtime.workfolder import WorkFolder
from shared.storage import keys
from tests.support.builders import a_message, a_slip
from tests.support.eventually import eventually
from tests.support.mesh import Gate, Mesh, ScriptedCompute

FAKE = "tests.support.fake_stage:FakeStage"


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"kernels"}


async def test_a_lost_lease_ends_the_computation_and_publishes_nothing(mesh: Mesh) -> None:
    """The broker gives the message to another worker, which alone finishes it."""
    cut_off, other = Gate(), ScriptedCompute("ingest")
    await mesh.worker("ingest", cut_off.compute)
    message = a_message()
    await mesh.submit(message)
    await cut_off.entered.wait()
    await mesh.worker("ingest", other)

    mesh.brokers[0].drop_connection()
    await mesh.event("stage.completed")
    await mesh.idle()

    assert (cut_off.compute.ended_early, len(other.tasks)) == (1, 1)
    assert len(mesh.waiting("stage.segmentation")) == 1


async def test_the_child_ends_before_the_next_delivery_is_taken(mesh: Mesh) -> None:
    """A worker that gets its own message back starts on it only after the first computation has ended."""
    running: list[int] = []
    most = 0

    async def count(task: ComputeTask, on_progress: OnProgress) -> None:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        try:
            await asyncio.sleep(0.5 if task.workspace else 0)
        finally:
            await asyncio.sleep(0.1)  # as a child that takes a moment to die
            running.pop()

    compute = ScriptedCompute("ingest", count)
    await mesh.worker("ingest", compute)
    await mesh.submit(a_message())
    await eventually(lambda: running)

    mesh.brokers[0].drop_connection()
    await mesh.event("stage.completed")

    assert (len(compute.tasks), most) == (2, 1)


async def test_leaving_hands_the_message_back(mesh: Mesh) -> None:
    """SIGTERM: the computation ends, the message goes back with its counters unchanged, at once."""
    gate = Gate()
    worker = await mesh.worker("ingest", gate.compute)
    message = a_message(attempt=2)
    await mesh.submit(message)
    await gate.entered.wait()

    await asyncio.wait_for(worker.stop(), 2)

    assert mesh.messages("stage.ingest") == [message]
    assert mesh.server.queues["stage.ingest"].ready[0].delivery_count == 0
    assert gate.compute.ended_early == 1
    assert names_in(mesh.folder / "work") == set()


async def test_leaving_while_settling_finishes_first(mesh: Mesh) -> None:
    """What is nearly done is not handed back."""
    worker = await mesh.worker("ingest")
    mesh.brokers[0].refuses = lambda publication: publication.exchange == "retry"  # type: ignore[method-assign]
    mesh.brokers[0].failures = 1
    await mesh.submit(a_message(), with_request=False)
    await eventually(lambda: mesh.brokers[0].failures == 0)

    await worker.stop()

    assert mesh.waiting("stage.ingest") == []
    assert len(mesh.waiting("retry.10s")) == 1


async def test_a_cancelled_job_ends_its_child_within_five_seconds(mesh: Mesh) -> None:
    """A real child that hangs is gone, and the next job gets a fresh one."""
    await mesh.worker("ingest", target=FAKE, stop_poll_s=2.0)
    hanging, good = a_message(a_slip(params={"ingest": {"behaviour": "hang"}})), a_message()
    await mesh.submit(hanging)
    await mesh.event("stage.progress", 20)

    await mesh.store.put(keys.stop(hanging.job_id), b"cancelled")
    await mesh.idle(5)
    await mesh.submit(good)
    completed = await mesh.event("stage.completed", 20)

    assert completed.job_id == good.job_id


async def test_a_child_that_crashes_is_counted_in_the_message(mesh: Mesh) -> None:
    """A native crash ends the child, not the worker; the try after it succeeds."""
    await mesh.worker("ingest", target=FAKE)
    message = a_message(a_slip(params={"ingest": {"behaviour": "abort", "bad_tries": 1}}))
    await mesh.submit(message)
    await mesh.arrival("retry.10s", 20)

    await mesh.submit(mesh.messages("retry.10s")[0])
    await mesh.event("stage.completed", 20)

    assert (await mesh.manifest(message)).report.summary["tries"] == 2


async def test_a_child_that_eats_memory_is_tried_smaller(mesh: Mesh) -> None:
    """The limit ends it; at reduction 1 it fits, and the manifest says so, to the caller too."""
    await mesh.worker("ingest", target=FAKE, memory_check_s=0.1)
    message = a_message(a_slip(params={"ingest": {"behaviour": "eat"}}, memory_limit_bytes=200 << 20))
    await mesh.submit(message)
    await mesh.arrival("retry.10s", 20)

    await mesh.submit(mesh.messages("retry.10s")[0])
    await mesh.event("stage.completed", 20)

    manifest = await mesh.manifest(message)
    assert (manifest.reduction, manifest.tries) == (1, 2)
    assert [warning.code for warning in manifest.report.warnings] == ["LOWER_RESOLUTION"]


async def test_a_hang_is_ended_by_the_hard_limit(mesh: Mesh) -> None:
    """After three tries it is STAGE_TIMEOUT."""
    await mesh.worker("ingest", target=FAKE)
    message = a_message(a_slip(params={"ingest": {"behaviour": "hang"}}, hard_limit_s=1.0), attempt=3)

    await mesh.submit(message)

    assert (await mesh.arrival("dead.ingest", 20)).headers["code"] == "STAGE_TIMEOUT"


async def test_a_stage_that_cannot_be_loaded_does_not_lose_the_job(mesh: Mesh) -> None:
    """A broken installation is tried again, perhaps elsewhere."""
    await mesh.worker("ingest", target="tests.support.fake_stage:UnloadableStage")

    await mesh.submit(a_message())

    assert await mesh.arrival("retry.10s", 20)


async def test_a_store_that_is_away_is_waited_for(mesh: Mesh) -> None:
    """The message is held, readiness is off, and the work goes on where it was: nothing is computed twice."""
    gate = Gate()
    worker = await mesh.worker("ingest", gate.compute)
    await eventually(lambda: all(worker.ready().values()))
    await mesh.submit(a_message())
    await gate.entered.wait()

    mesh.store.away = True
    gate.let_go.set()
    await eventually(lambda: not worker.ready()["store"])
    assert mesh.waiting("stage.ingest") == mesh.waiting("retry.10s") == []
    mesh.store.away = False
    await mesh.event("stage.completed")

    assert len(gate.compute.tasks) == 1
    await eventually(lambda: all(worker.ready().values()))


async def test_a_full_disk_is_waited_for(mesh: Mesh, free_bytes: dict[str, int]) -> None:
    """The message is held and not counted, readiness names the disk; with room again the work is done."""
    free_bytes["bytes"] = 0
    compute = ScriptedCompute("ingest")
    worker = await mesh.worker("ingest", compute)
    message = a_message()
    await mesh.submit(message)
    await mesh.event("stage.started")
    await eventually(lambda: worker.ready() == {"broker": True, "store": True, "disk": False, "consumer": True})
    assert mesh.waiting("stage.ingest") == mesh.waiting("retry.10s") == compute.tasks == []

    free_bytes["bytes"] = 1 << 40
    await mesh.event("stage.completed")

    assert (await mesh.manifest(message)).tries == len(compute.tasks) == 1
    await eventually(lambda: worker.ready()["disk"])


@pytest.mark.parametrize(
    "error", [ChildDied("the stage raised"), OSError(errno.ENOSPC, "No space left on device")], ids=["child", "worker"]
)
async def test_a_disk_that_fills_up_is_named(mesh: Mesh, free_bytes: dict[str, int], error: Exception) -> None:
    """The try counts, since the step itself may be what fills it; who looks at the parked message reads why."""

    async def fill(task: ComputeTask, on_progress: OnProgress) -> None:
        free_bytes["bytes"] = 0
        raise error

    await mesh.worker("ingest", ScriptedCompute("ingest", fill))

    await mesh.submit(a_message(attempt=3))
    dead = await mesh.arrival("dead.ingest")

    assert dead.headers[HEADER_CODE] == "INTERNAL"
    assert "filled up" in str(dead.headers[HEADER_REASON])


async def test_a_worker_whose_publish_fails_keeps_its_message(mesh: Mesh) -> None:
    """It tries again until the broker has it, and computes once."""
    compute = ScriptedCompute("ingest")
    worker = await mesh.worker("ingest", compute)
    mesh.brokers[0].failures = 2

    await mesh.submit(a_message())
    await mesh.event("stage.completed")

    assert len(compute.tasks) == len(mesh.waiting("stage.segmentation")) == 1
    assert worker.ready()["broker"]


async def test_readiness_names_what_is_missing(mesh: Mesh) -> None:
    """Broker, store, disk and consumer; a worker that left consumes nothing."""
    worker = await mesh.worker("ingest")
    await eventually(lambda: worker.ready() == {"broker": True, "store": True, "disk": True, "consumer": True})

    await worker.stop()

    assert not worker.ready()["consumer"]


async def test_workspaces_of_killed_workers_are_cleared_away(tmp_path: Path) -> None:
    """A folder whose lock nobody holds is removed; one in use is left alone."""
    alive, abandoned, newcomer = WorkFolder(tmp_path, "sfm"), WorkFolder(tmp_path, "sfm"), WorkFolder(tmp_path, "mvs")
    await alive.open()
    await abandoned.open()
    (await abandoned.new_workspace("a") / "large.bin").write_bytes(b"x")
    assert abandoned._lock is not None
    abandoned._lock.close()  # what the kernel does for a process that was killed

    await newcomer.open()

    assert names_in(tmp_path) == {alive.path.name, newcomer.path.name}
    await alive.close()
    await newcomer.close()
    assert names_in(tmp_path) == set()
