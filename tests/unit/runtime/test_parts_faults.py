"""What becomes of a divided step when a part fails, a worker is lost, something is damaged, or the stage changes meanwhile."""

import json
from collections.abc import Callable

from shared.contracts.messages import SPLIT_VERSION, StageMessage
from shared.contracts.routing import HEADER_CODE, HEADER_OTHER_VERSION
from shared.errors import OutOfMemory, PermanentError, TransientError
from shared.ports import Publication
from shared.runtime.compute import ComputeTask, OnProgress
from shared.runtime.share_turn import MAX_OTHER_VERSION
from shared.runtime.stage import Part
from shared.storage import keys
from tests.support.builders import a_message, a_publication
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, Script, ScriptedCompute, attempt_key, output_key
from tests.support.partitioned import (
    ONE_ROUND,
    TWO_ROUNDS,
    PartGate,
    PartitionedCompute,
    a_share,
    part_key,
    part_made,
    shares,
    splits_of,
    the_split,
)
from tests.unit.runtime.test_scatter_gather import QUEUE, ended, key_of, prepared


def failing(error: Callable[[], Exception], part: str = "b", only: Callable[[ComputeTask], bool] = lambda task: True) -> Script:
    """Fails in one part."""

    async def script(task: ComputeTask, on_progress: OnProgress) -> None:
        if task.part == part and only(task):
            raise error()

    return script


async def test_a_part_that_fails_for_good_fails_the_step(mesh: Mesh) -> None:
    """Its error is committed with the step's chain; parts that come later cost nothing, and tell it again."""
    compute = PartitionedCompute("segmentation", ONE_ROUND, failing(lambda: PermanentError("NO_SURFACE")))
    message = await prepared(mesh, compute)
    await mesh.event("stage.failed")
    await mesh.idle()
    manifest = await mesh.manifest(message)
    assert manifest.error is not None
    assert (manifest.error.code, manifest.chain) == ("NO_SURFACE", (await the_split(mesh, message)).chain)
    assert compute.asked() == ["split only", "run_part only.a", "run_part only.b"]
    assert {event.manifest for event in mesh.events("stage.failed")} == {attempt_key(manifest)}  # type: ignore[union-attr]
    assert mesh.waiting("stage.sfm") == []


async def test_a_join_that_fails_for_good_fails_the_step(mesh: Mesh) -> None:
    """As a part does."""

    async def script(task: ComputeTask, on_progress: OnProgress) -> None:
        if task.ask == "join":
            raise PermanentError("NO_SURFACE")

    message = await prepared(mesh, PartitionedCompute("segmentation", ONE_ROUND, script))
    await mesh.event("stage.failed")
    assert (await mesh.manifest(message)).error is not None


async def test_a_part_that_may_succeed_later_is_tried_again_alone(mesh: Mesh) -> None:
    """Counted in its own message; the manifest has the most tries of any part."""
    compute = PartitionedCompute("segmentation", ONE_ROUND, failing(lambda: TransientError("busy"), only=lambda task: task.tries == 1))
    message = await prepared(mesh, compute)
    await mesh.arrival("retry.10s")
    await mesh.idle()
    again = mesh.messages("retry.10s")[0]
    assert (again.part, again.attempt, again.schema_version) == ("b", 2, SPLIT_VERSION)
    await mesh.submit(again, with_request=False)
    await ended(mesh)
    assert compute.asked().count("run_part only.a") == compute.asked().count("run_part only.c") == 1
    assert (await mesh.manifest(message)).tries == 2


async def test_a_part_that_fails_three_times_is_given_up(mesh: Mesh) -> None:
    """With its code, under the step's name."""
    await prepared(mesh, PartitionedCompute("segmentation", ONE_ROUND, failing(lambda: TransientError("busy"))))
    await mesh.arrival("retry.10s")
    await mesh.submit(mesh.messages("retry.10s")[0].model_copy(update={"attempt": 3}), with_request=False)
    dead = await mesh.arrival("dead.segmentation")
    assert (dead.headers[HEADER_CODE], dead.headers["step"]) == ("INTERNAL", "segmentation")


async def test_out_of_memory_in_a_part_computes_the_whole_step_smaller(mesh: Mesh) -> None:
    """Parts fit together: none is of another resolution; what is left of the first split costs nothing."""
    compute = PartitionedCompute("segmentation", TWO_ROUNDS, failing(OutOfMemory, "a", lambda task: task.reduction == 0))
    message = await prepared(mesh, compute)
    await ended(mesh)
    manifest = await mesh.manifest(message)
    assert (manifest.reduction, manifest.error) == (1, None)
    first_split = [task for task in compute.tasks if task.reduction == 0]
    assert [task.part for task in first_split] == ["", "a"]
    assert [split.reduction for split in await splits_of(mesh, message) if split.round == "second"] == [1]
    assert mesh.waiting("retry.10s") == []


async def test_out_of_memory_in_a_later_round_starts_over_too(mesh: Mesh) -> None:
    """From the first round."""
    compute = PartitionedCompute("segmentation", TWO_ROUNDS, failing(OutOfMemory, "x", lambda task: task.reduction == 0))
    message = await prepared(mesh, compute)
    await ended(mesh)
    assert (await mesh.manifest(message)).reduction == 1
    assert compute.asked().count("run_part first.a") == 2
    assert compute.asked().count("run_part second.y") == 1


async def test_out_of_memory_in_the_join_starts_over_too(mesh: Mesh) -> None:
    """Its parts were too large."""

    async def script(task: ComputeTask, on_progress: OnProgress) -> None:
        if task.ask == "join" and task.reduction == 0:
            raise OutOfMemory

    message = await prepared(mesh, PartitionedCompute("segmentation", ONE_ROUND, script))
    await ended(mesh)
    assert (await mesh.manifest(message)).reduction == 1


async def test_out_of_memory_again_is_final(mesh: Mesh) -> None:
    """The job fails with OUT_OF_MEMORY."""
    message = await prepared(mesh, PartitionedCompute("segmentation", ONE_ROUND, failing(OutOfMemory)))
    await mesh.event("stage.failed")
    error = (await mesh.manifest(message)).error
    assert error is not None
    assert error.code == "OUT_OF_MEMORY"


async def test_a_killed_worker_costs_only_its_part(mesh: Mesh) -> None:
    """The broker gives that part to another; what others make is kept, and nobody's work is lost but its own."""
    gate = PartGate()
    cut_off, other = (PartitionedCompute("segmentation", ONE_ROUND, gate.script) for _ in range(2))
    message = await prepared(mesh, cut_off, other)
    await eventually(lambda: len(gate.entered) == 2)
    mesh.brokers[1].drop_connection()
    await eventually(lambda: cut_off.ended_early == 1)
    gate.let_go.set()
    await ended(mesh)
    asked = sorted(cut_off.asked() + other.asked())
    lost = f"run_part only.{cut_off.tasks[-1].part}" if cut_off.ended_early else ""
    assert lost
    assert len([ask for ask in asked if ask.startswith("run_part")]) == 4
    assert [ask.split()[0] for ask in asked].count("split") == 1
    assert len((await mesh.manifest(message)).parts) == 3


async def test_a_part_that_loses_its_workers_is_given_up(mesh: Mesh) -> None:
    """Counted by the broker for that part alone."""
    compute = PartitionedCompute("segmentation")
    message = await prepared(mesh)
    mesh.server.queues[QUEUE].ready.clear()
    await mesh.submit(a_share(message, "a"), with_request=False)
    mesh.server.queues[QUEUE].ready[0].delivery_count = 5
    await mesh.worker("segmentation", compute)
    assert (await mesh.arrival("dead.segmentation")).headers[HEADER_CODE] == "WORKER_LOST"
    assert compute.tasks == []


async def test_a_worker_that_leaves_hands_its_part_back(mesh: Mesh) -> None:
    """As it came."""
    gate = PartGate()
    message = await prepared(mesh, PartitionedCompute("segmentation", ONE_ROUND, gate.script))
    await eventually(lambda: gate.entered)
    await mesh.workers[1].stop()
    waiting = mesh.messages(QUEUE)
    assert sorted(filter(None, shares(waiting))) == ["a", "b", "c"]
    assert {share.attempt for share in waiting} == {1}
    assert {share.split for share in waiting} == {(await the_split(mesh, message)).id}


async def test_a_damaged_part_has_the_step_made_again(mesh: Mesh) -> None:
    """Whoever reads it finds it: the step is published, counted, and split anew."""
    gate = PartGate()

    async def script(task: ComputeTask, on_progress: OnProgress) -> None:
        if task.part == "c":
            await gate.script(task, on_progress)

    compute = PartitionedCompute("segmentation", ONE_ROUND, script)
    message = await prepared(mesh, compute)
    await eventually(lambda: gate.entered)
    split = await the_split(mesh, message)
    await mesh.store.put(part_key(split, await part_made(mesh, split, "a")), b"damaged")
    gate.let_go.set()
    await ended(mesh)
    made = await mesh.manifest(message)
    assert split.id not in {link.split for link in made.parts}
    assert await mesh.output(made) == "[ingest;only.a;ingest;only.b;ingest;only.c;]"
    assert mesh.messages("stage.sfm")[0].corrupt_findings == 1


async def test_what_says_that_a_part_is_made_may_be_damaged_too(mesh: Mesh) -> None:
    """As its outputs."""
    compute = PartitionedCompute("segmentation")
    message = await prepared(mesh, compute)
    await ended(mesh)
    split = await the_split(mesh, message)
    await mesh.store.put(key_of(split, "a"), b"{")
    await mesh.store.delete([keys.step_manifest(message.job_id, 1, "segmentation")])
    await mesh.submit(message, with_request=False)
    await ended(mesh, 3)
    assert {link.split for link in (await mesh.manifest(message)).parts} != {split.id}


async def test_what_is_left_of_a_split_that_was_replaced_costs_nothing(mesh: Mesh) -> None:
    """Its parts and its join are acked."""
    compute = PartitionedCompute("segmentation")
    message = await prepared(mesh, compute)
    await ended(mesh)
    split = await the_split(mesh, message)
    removed = [keys.step_manifest(message.job_id, 1, "segmentation"), key_of(split, "a")]
    await mesh.store.delete(removed)
    await mesh.store.put(keys.split_replaced(message.job_id, 1, "segmentation", split.id), b"")
    for part in ("a", "b", None):
        await mesh.submit(message.share(split, part), with_request=False)
    await mesh.idle()
    assert len(compute.tasks) == 5


async def test_a_damaged_input_of_a_part_is_made_again(mesh: Mesh) -> None:
    """Down to the step that made it; the split of the old inputs is passed over."""
    gate = PartGate()
    compute = PartitionedCompute("segmentation", {"only": (Part("a"), Part("b"))}, gate.script)
    message = await prepared(mesh, compute)
    await eventually(lambda: gate.entered)
    before = await mesh.manifest(message, 0)
    await mesh.store.put(output_key(before), b"damaged")
    gate.let_go.set()
    await ended(mesh, 3)
    made = await mesh.manifest(message)
    assert made.chain == ((await mesh.manifest(message, 0)).link(),) != (before.link(),)
    assert await mesh.output(made) == "[ingest;only.a;ingest;only.b;]"


async def test_a_damaged_output_of_the_join_is_made_again(mesh: Mesh) -> None:
    """From the parts on: whoever starts over because of damage trusts nothing that was there."""
    compute = PartitionedCompute("segmentation")
    message = await prepared(mesh, compute)
    await ended(mesh)
    await mesh.store.put(output_key(await mesh.manifest(message)), b"damaged")
    await mesh.worker("sfm")
    await eventually(lambda: any(event.step == "sfm" for event in mesh.events("stage.completed")))
    assert compute.asked()[5:] == compute.asked()[:5]


async def test_a_share_of_another_version_is_left_to_workers_of_that_version(mesh: Mesh) -> None:
    """It is put back for a minute, uncounted, a few times; then the step is split anew by whoever is there."""
    old, new = PartitionedCompute("segmentation"), PartitionedCompute("segmentation", version="2")
    gate = PartGate()
    old.script = gate.script
    message = await prepared(mesh, old)
    await eventually(lambda: gate.entered)
    await mesh.workers[1].stop()
    await mesh.worker("segmentation", new)
    await eventually(lambda: len(mesh.waiting("retry.1m")) == 3)
    waiting = mesh.waiting("retry.1m")[0]
    assert (waiting.headers[HEADER_OTHER_VERSION], new.tasks) == (1, [])

    publication = a_publication(StageMessage.model_validate_json(waiting.publication.body))
    publication.headers[HEADER_OTHER_VERSION] = MAX_OTHER_VERSION  # type: ignore[index]
    await mesh.gateway.publish(publication)
    await ended(mesh)
    assert (await mesh.manifest(message)).stage_version == "2"
    assert new.asked() == ["split only", "run_part only.a", "run_part only.b", "run_part only.c", "join"]


async def test_a_stage_that_is_partitioned_no_more_takes_the_step_over(mesh: Mesh) -> None:
    """Its worker knows nothing of rounds."""
    message = await prepared(mesh)
    await mesh.worker("segmentation", PartitionedCompute("segmentation"))
    await ended(mesh)
    await mesh.workers[1].stop()
    split = await the_split(mesh, message)
    await mesh.store.delete([keys.step_manifest(message.job_id, 1, "segmentation")])
    plain = ScriptedCompute("segmentation")
    await mesh.worker("segmentation", plain)
    publication = a_publication(message.share(split, "a"))
    publication.headers[HEADER_OTHER_VERSION] = MAX_OTHER_VERSION  # type: ignore[index]
    await mesh.gateway.publish(publication)
    await ended(mesh, 3)
    assert (await mesh.manifest(message)).parts == ()
    assert len(plain.tasks) == 1


def test_messages_about_splits_have_a_version_of_their_own() -> None:
    """Workers that know nothing of splits leave them to those that do; whole steps are read by everybody."""
    message = a_message(position=1)
    share = a_share(message, "a", "s").model_copy(update={"reduction": 1})
    assert (message.schema_version, share.schema_version, share.whole().schema_version, share.at(2).schema_version) == (1, 2, 1, 1)
    assert (share.at(2).split, share.at(2).part, share.at(2).reduction) == (None, None, 0)
    assert len({message.message_id, share.message_id, a_share(message, "b", "s").message_id, a_share(message, "a", "t").message_id}) == 4


def test_messages_of_before_are_read() -> None:
    """Without the fields that name a split."""
    message = a_message(position=1)
    raw = json.loads(message.to_bytes())
    del raw["split"], raw["part"], raw["generation"]
    assert StageMessage.model_validate(raw) == message


async def test_a_splitter_that_is_lost_between_two_publishes_loses_no_part(mesh: Mesh) -> None:
    """Its message comes again, and publishes what nobody has made."""
    message = await prepared(mesh)
    compute = PartitionedCompute("segmentation", TWO_ROUNDS)

    async def cut_off(task: ComputeTask, on_progress: OnProgress) -> None:
        if compute.asked() == ["split first"]:
            mesh.brokers[1].failures = 1
            mesh.brokers[1].refuses = cuts  # type: ignore[method-assign]

    def cuts(publication: Publication) -> bool:
        if json.loads(publication.body).get("part") != "b":
            return False
        mesh.brokers[1].drop_connection()
        return True

    compute.script = cut_off
    await mesh.worker("segmentation", compute, transfers=1)
    await ended(mesh)
    assert len((await mesh.manifest(message)).parts) == 5
    assert compute.asked().count("split first") == 1


async def test_a_step_message_of_a_split_that_was_replaced_divides_the_step_once_more(mesh: Mesh) -> None:
    """It may be the only message that is left."""
    compute = PartitionedCompute("segmentation")
    message = await prepared(mesh, compute)
    await ended(mesh)
    split = await the_split(mesh, message)
    await mesh.store.delete([keys.step_manifest(message.job_id, 1, "segmentation"), key_of(split, "a")])
    await mesh.store.put(keys.split_replaced(message.job_id, 1, "segmentation", split.id), b"")
    await mesh.submit(message, with_request=False)
    await ended(mesh, 3)
    assert sorted(found.generation for found in await splits_of(mesh, message)) == [0, 1]
    assert split.id not in {link.split for link in (await mesh.manifest(message)).parts}
