"""A step that is divided: rounds of parts for any number of workers, then a join; every line of the protocol."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from shared.contracts.messages import StageMessage
from shared.contracts.routing import HEADER_CODE
from shared.errors import ObjectMissing
from shared.runtime.compute import ComputeTask, OnProgress
from shared.runtime.stage import Part
from shared.storage import keys
from tests.support.builders import a_message, a_request, a_slip
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, ScriptedCompute
from tests.support.partitioned import (
    ONE_ROUND,
    TWO_ROUNDS,
    PartGate,
    PartitionedCompute,
    a_share,
    joined_parts,
    part_made,
    split_of,
    splits_of,
    the_split,
)

QUEUE = "stage.segmentation"


async def prepared(mesh: Mesh, *computes: ScriptedCompute) -> StageMessage:
    """A job whose second step, which is partitioned, waits; its first is committed. Then these workers start on it."""
    await mesh.worker("ingest")
    message = a_message()
    await mesh.submit(message)
    await mesh.arrival(QUEUE)
    await mesh.idle()
    for compute in computes:
        await mesh.worker("segmentation", compute)
    return message.at(1)


async def ended(mesh: Mesh, times: int = 2) -> None:
    await eventually(lambda: len(mesh.events("stage.completed")) >= times)
    await mesh.idle()


async def test_two_workers_share_the_rounds_of_a_step(mesh: Mesh) -> None:
    """Each part is computed once, by whoever is free; each reads what its split says; the join makes the step, which goes on once."""

    async def in_turn(task: ComputeTask, on_progress: OnProgress) -> None:
        """No part ends before the one ahead of it has told what it made."""
        await eventually(lambda: not task.part or len(mesh.events("stage.progress")) >= "abxyz".index(task.part), 60)

    left, right = (PartitionedCompute("segmentation", TWO_ROUNDS, in_turn) for _ in range(2))
    message = await prepared(mesh, left, right)
    await ended(mesh)

    parts = ["run_part first.a", "run_part first.b", "run_part second.x", "run_part second.y", "run_part second.z"]
    assert sorted(left.asked() + right.asked()) == sorted(["split first", "split second", "join", *parts])
    assert len(left.tasks) > 1 < len(right.tasks)
    made = await mesh.manifest(message)
    a, b = "ingest;first.a;", "ingest;first.b;"
    assert await mesh.output(made) == f"[{a}{b}ingest;{a}second.x;ingest;{a}{b}second.y;{a}{b}second.z;]"
    assert joined_parts(made) == ["first.a", "first.b", "second.x", "second.y", "second.z"]
    assert len(mesh.waiting("stage.sfm")) == 1
    assert [event.type for event in mesh.events() if event.step == "segmentation" and event.type != "stage.progress"] == [
        "stage.started",
        "stage.completed",
    ]


async def test_a_part_may_read_files_of_any_earlier_round(mesh: Mesh) -> None:
    """By patterns, of every part of that round; each file once, though it is named twice."""
    first, second = {"parts/first": ("*.txt",)}, {"parts/second": ("*.txt",)}
    later = (Part("t", needs=first, parts=()), Part("u", needs=first | {"parts/second": ("other",)}, parts=()), Part("v", needs=second))
    rounds = {"first": (Part("a", needs={}), Part("b", needs={})), "second": (Part("x", needs={}, parts=()),), "third": later}
    message = await prepared(mesh, PartitionedCompute("segmentation", rounds))
    await ended(mesh)
    third = "first.a;first.b;third.t;first.a;first.b;third.u;second.x;third.v;"
    assert await mesh.output(await mesh.manifest(message)) == f"[first.a;first.b;second.x;{third}]"


async def test_the_manifest_sums_what_the_parts_cost(mesh: Mesh) -> None:
    """Seconds are the sum of all compute, memory and tries the most of any part; chain and digest are those of the whole step."""

    async def slow(task: ComputeTask, on_progress: OnProgress) -> None:
        await asyncio.sleep(0.05)

    message = await prepared(mesh, PartitionedCompute("segmentation", ONE_ROUND, slow))
    await ended(mesh)
    made, split = await mesh.manifest(message), await the_split(mesh, message)
    assert made.seconds >= 5 * 0.05
    assert (made.peak_memory_bytes, made.tries, made.digest) == (2 << 20, 1, split.digest)
    assert made.chain == split.chain == ((await mesh.manifest(message, 0)).link(),)


async def test_the_digest_does_not_depend_on_how_a_step_is_divided(mesh: Mesh) -> None:
    """A step that is computed whole has the digest of one that is split."""
    message = await prepared(mesh, PartitionedCompute("segmentation"))
    await ended(mesh)
    whole = a_message()
    for worker in mesh.workers[1:]:
        await worker.stop()
    await mesh.worker("segmentation", ScriptedCompute("segmentation"))
    await mesh.submit(whole)
    await ended(mesh, 4)
    assert (await mesh.manifest(whole, 1)).digest == (await mesh.manifest(message)).digest


@pytest.mark.parametrize("parts", [(), (Part("a"),)])
async def test_what_is_not_worth_splitting_is_computed_whole(mesh: Mesh, parts: tuple[Part, ...]) -> None:
    """Fewer than two parts in the first round: as any stage."""
    compute = PartitionedCompute("segmentation", {"only": parts, "later": (Part("b"), Part("c"))})
    message = await prepared(mesh, compute)
    await ended(mesh)
    assert compute.asked() == ["split only", "run"]
    assert await mesh.output(await mesh.manifest(message)) == "ingest;segmentation;"
    assert (await mesh.manifest(message)).parts == ()
    assert await splits_of(mesh, message) == []


@pytest.mark.parametrize(("pattern", "asked"), [("ingest/*.txt", "split only"), ("ingest/*.jpg", "run")])
async def test_a_step_of_too_few_inputs_is_not_even_asked_about(mesh: Mesh, pattern: str, asked: str) -> None:
    """Those that the stage says it is divided by."""
    compute = PartitionedCompute("segmentation")
    compute.least_inputs = (pattern, 1)
    await prepared(mesh, compute)
    await ended(mesh)
    assert compute.asked()[0] == asked


@pytest.mark.parametrize("later", [(), (Part("x"),)])
async def test_a_later_round_may_have_any_number_of_parts(mesh: Mesh, later: tuple[Part, ...]) -> None:
    """One, or none at all."""
    message = await prepared(mesh, PartitionedCompute("segmentation", {"first": (Part("a"), Part("b")), "second": later}))
    await ended(mesh)
    assert joined_parts(await mesh.manifest(message)) == ["first.a", "first.b", *(f"second.{part.name}" for part in later)]


async def test_rounds_without_parts_are_passed_over(mesh: Mesh) -> None:
    """Whoever goes on asks about the next one, or joins: they are nobody else's delivery, and nothing is written about them."""
    parts = tuple(Part(name, needs={"parts/first": ("*.txt",)}, parts=()) for name in "xy")
    compute = PartitionedCompute("segmentation", {"first": (Part("a"), Part("b")), "none": (), "last": parts, "end": ()})
    message = await prepared(mesh, compute)
    await ended(mesh)
    last = await the_split(mesh, message, "last")
    asked = ["split first", "run_part first.a", "run_part first.b", "split none", "split last", "run_part last.x", "run_part last.y"]
    assert compute.asked() == [*asked, "split end", "join"]
    assert {split.round for split in await splits_of(mesh, message)} == {"first", "last"}
    assert [(made.round, len(made.parts)) for made in last.before] == [("first", 2), ("none", 0)]
    assert joined_parts(await mesh.manifest(message)) == ["first.a", "first.b", "last.x", "last.y"]

    await mesh.store.delete([keys.step_manifest(message.job_id, 1, "segmentation"), key_of(last, "y")])
    await mesh.submit(message, with_request=False)
    await ended(mesh, 3)
    assert compute.asked()[len(asked) + 2 :] == ["run_part last.y", "split end", "join"]


async def test_what_follows_a_round_again_finds_the_one_behind_an_empty_one(mesh: Mesh) -> None:
    """Its worker was lost before it could say that the round is followed: nothing is computed twice."""
    compute = PartitionedCompute("segmentation", {"first": (Part("a"), Part("b")), "none": (), "last": (Part("x", needs={}, parts=()),)})
    message = await prepared(mesh, compute)
    await ended(mesh)
    first, last = await the_split(mesh, message, "first"), await the_split(mesh, message, "last")
    followed = keys.split_followed(message.job_id, 1, "segmentation", first.id, last.id)
    await mesh.store.delete([keys.step_manifest(message.job_id, 1, "segmentation"), followed])
    await mesh.submit(message.share(first, None), with_request=False)
    await ended(mesh, 3)
    assert compute.asked()[7:] == ["split none", "join"]
    assert await mesh.store.exists(followed)


async def test_a_worker_reads_once_what_its_parts_have_in_common(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their split, the request and the manifests of earlier steps: they never change, and of many parts a split is large."""
    read, get = Counter[str](), mesh.store.get

    async def counted(key: str) -> bytes:
        data = await get(key)
        read[key] += 1
        return data

    message = await prepared(mesh)
    monkeypatch.setattr(mesh.store, "get", counted)
    await mesh.worker("segmentation", PartitionedCompute("segmentation", {"only": tuple(Part(name) for name in "abcdefgh")}))
    await ended(mesh)
    assert [count for key, count in read.items() if key.endswith("/split.json")] == [1]
    assert read[keys.request(message.job_id)] <= 3  # of the step itself, and of its shares


@pytest.mark.parametrize("round", TWO_ROUNDS)
async def test_two_that_divide_the_same_round_write_the_same_split(mesh: Mesh, round: str) -> None:
    """At the same moment: nothing is computed for two splits, and nothing mixes."""
    message = await prepared(mesh)
    both = asyncio.Barrier(2)

    async def together(task: ComputeTask, on_progress: OnProgress) -> None:
        if task.ask == "split" and task.round == round:
            await both.wait()

    await mesh.submit(message, with_request=False)
    for _ in range(2):
        await mesh.worker("segmentation", PartitionedCompute("segmentation", TWO_ROUNDS, together))
    if round == "second":
        first = await eventually(lambda: split_of(mesh, message, "first"))
        await mesh.submit(message.share(first, None), with_request=False)
    await ended(mesh)

    made = await mesh.manifest(message)
    assert {link.split for link in made.parts} == {split.id for split in await splits_of(mesh, message)}
    assert len(await splits_of(mesh, message)) == 2


async def test_a_step_message_publishes_only_what_is_missing(mesh: Mesh) -> None:
    """It finds the split, and asks for those parts that nobody has made."""
    compute = PartitionedCompute("segmentation", {"only": (Part("a"), Part("b"), Part("c"))})
    message = await prepared(mesh, compute)
    await ended(mesh)
    split = await the_split(mesh, message)
    await mesh.store.delete([keys.step_manifest(message.job_id, 1, "segmentation"), key_of(split, "b")])
    await mesh.submit(message, with_request=False)
    await ended(mesh, 3)
    assert compute.asked()[5:] == ["run_part only.b", "join"]
    assert await splits_of(mesh, message) == [split]


async def test_a_step_message_goes_on_at_the_latest_round(mesh: Mesh) -> None:
    """What earlier rounds made stays."""
    compute = PartitionedCompute("segmentation", TWO_ROUNDS)
    message = await prepared(mesh, compute)
    await ended(mesh)
    second = await the_split(mesh, message, "second")
    await mesh.store.delete([keys.step_manifest(message.job_id, 1, "segmentation"), key_of(second, "y"), key_of(second, "z")])
    await mesh.submit(message, with_request=False)
    await ended(mesh, 3)
    assert compute.asked()[8:] == ["run_part second.y", "run_part second.z", "join"]


async def ended_without_manifest(mesh: Mesh, compute: PartitionedCompute) -> StageMessage:
    """A step of which every part is made, five asks of the stage later, whose join came to nothing."""
    message = await prepared(mesh, compute)
    await ended(mesh)
    await mesh.store.delete([keys.step_manifest(message.job_id, 1, "segmentation")])
    return message


async def test_a_step_message_that_finds_every_part_made_has_it_joined(mesh: Mesh) -> None:
    """Nothing else is computed."""
    compute = PartitionedCompute("segmentation")
    await mesh.submit(await ended_without_manifest(mesh, compute), with_request=False)
    await ended(mesh, 3)
    assert compute.asked()[5:] == ["join"]


async def test_a_part_that_comes_after_the_manifest_is_acked(mesh: Mesh) -> None:
    """Nothing is computed, told or handed on."""
    compute = PartitionedCompute("segmentation")
    message = await prepared(mesh, compute)
    await ended(mesh)
    told = len(mesh.events())
    await mesh.submit(message.share(await the_split(mesh, message), "a"), with_request=False)
    await mesh.idle()
    assert (len(compute.tasks), len(mesh.events()), len(mesh.waiting("stage.sfm"))) == (5, told, 1)


async def test_a_join_that_comes_after_the_manifest_hands_the_step_on(mesh: Mesh) -> None:
    """Its worker may have been lost before it did."""
    message = await prepared(mesh, PartitionedCompute("segmentation"))
    await ended(mesh)
    await mesh.submit(message.share(await the_split(mesh, message), None), with_request=False)
    await ended(mesh, 3)
    assert len(mesh.waiting("stage.sfm")) == 2


async def test_a_part_that_is_made_already_publishes_the_join(mesh: Mesh) -> None:
    """Whoever made it may have been lost before that."""
    compute = PartitionedCompute("segmentation")
    message = await ended_without_manifest(mesh, compute)
    await mesh.submit(message.share(await the_split(mesh, message), "b"), with_request=False)
    await ended(mesh, 3)
    assert compute.asked()[5:] == ["join"]


async def test_a_part_that_is_made_already_leaves_the_others_to_their_messages(mesh: Mesh) -> None:
    """While parts are missing, it is acked."""
    compute = PartitionedCompute("segmentation")
    message = await ended_without_manifest(mesh, compute)
    split = await the_split(mesh, message)
    await mesh.store.delete([key_of(split, "c")])
    await mesh.submit(message.share(split, "b"), with_request=False)
    await mesh.idle()
    assert len(compute.tasks) == 5


async def test_a_join_that_comes_too_early_publishes_what_is_missing(mesh: Mesh) -> None:
    """It never joins fewer parts than there are."""
    compute = PartitionedCompute("segmentation")
    message = await prepared(mesh, compute)
    await ended(mesh)
    split = await the_split(mesh, message)
    await mesh.store.delete([keys.step_manifest(message.job_id, 1, "segmentation"), key_of(split, "c")])
    await mesh.submit(message.share(split, None), with_request=False)
    await ended(mesh, 3)
    assert compute.asked()[5:] == ["run_part only.c", "join"]


async def test_later_rounds_read_the_deliveries_that_their_split_names(mesh: Mesh) -> None:
    """A part of an earlier round that is committed again meanwhile changes nothing for them."""
    gate = PartGate("second")
    message = await prepared(mesh, PartitionedCompute("segmentation", TWO_ROUNDS, gate.script))
    await eventually(lambda: gate.entered)
    first = await the_split(mesh, message, "first")
    made = await part_made(mesh, first, "a")
    await mesh.store.put(key_of(first, "a"), made.model_copy(update={"attempt": "another"}).to_bytes())
    gate.let_go.set()
    await ended(mesh)
    assert [link.attempt for link in (await mesh.manifest(message)).parts if link.part == "a"] == [made.attempt]


async def test_the_heaviest_parts_go_first(mesh: Mesh) -> None:
    """So that nobody waits for a long one that was begun last; equal ones in their order."""
    weights = {"a": 1.0, "b": 3.0, "c": 1.0, "d": 2.5}
    compute = PartitionedCompute("segmentation", {"only": tuple(Part(name, weight) for name, weight in weights.items())})
    await prepared(mesh, compute)
    await ended(mesh)
    assert [task.part for task in compute.tasks if task.ask == "run_part"] == ["b", "d", "a", "c"]


async def test_progress_counts_parts_that_are_made(mesh: Mesh) -> None:
    """Every round and the join count alike, parts by their weight; it never falls."""
    message = await prepared(mesh, PartitionedCompute("segmentation", TWO_ROUNDS))
    await ended(mesh)
    told = [(event.fraction, event.message) for event in mesh.events("stage.progress") if event.step == message.step.name]  # type: ignore[union-attr]
    assert told[:2] in (
        [(0.11, "first: 1 of 2 parts"), (0.33, "first: 2 of 2 parts")],
        [(0.22, "first: 1 of 2 parts"), (0.33, "first: 2 of 2 parts")],
    )
    assert [fraction for fraction, _ in told[2:]] == [0.44, 0.55, 0.66]


async def test_parts_of_a_stopped_job_end(mesh: Mesh) -> None:
    """Those that run end within seconds, those that wait are acked; nothing is committed."""
    gate = PartGate()
    computes = [PartitionedCompute("segmentation", ONE_ROUND, gate.script) for _ in range(2)]
    message = await prepared(mesh, *computes)
    await eventually(lambda: len(gate.entered) == 2)
    await mesh.store.put(keys.stop(message.job_id), b"deleted")
    await mesh.idle()
    assert [compute.ended_early for compute in computes] == [1, 1]
    assert len(gate.entered) == 2
    with pytest.raises(ObjectMissing):
        await mesh.manifest(message)


async def test_a_retried_job_takes_over_a_step_that_was_split(mesh: Mesh) -> None:
    """Its digest is unchanged: nothing is split again."""
    compute = PartitionedCompute("segmentation")
    message = await prepared(mesh, compute)
    await ended(mesh)
    child = a_message()
    request = a_request(child.job_id).model_copy(update={"parent": message.job_id})
    await mesh.store.put(keys.request(child.job_id), request.to_bytes())
    await mesh.submit(child, with_request=False)
    await ended(mesh, 4)
    assert len(compute.tasks) == 5
    assert (await mesh.manifest(child, 1)).reused_from == message.job_id


async def test_a_part_that_no_split_has_is_not_computed(mesh: Mesh) -> None:
    """The step starts over, counted; the third time it is given up as damaged."""
    compute = PartitionedCompute("segmentation")
    message = await prepared(mesh)
    mesh.server.queues[QUEUE].ready.clear()
    await mesh.submit(a_share(message, "a").model_copy(update={"corrupt_findings": 2}), with_request=False)
    await mesh.worker("segmentation", compute)
    await mesh.event("stage.failed")
    error = (await mesh.manifest(message)).error
    assert error is not None
    assert (error.code, compute.tasks) == ("ARTIFACT_CORRUPT", [])


async def test_a_stage_in_a_real_child_is_split(mesh: Mesh) -> None:
    """What parts are, what they made and what they cost crosses the pipe."""
    await mesh.worker("ingest", target="tests.support.partitioned:FakePartitioned")
    message = a_message()
    await mesh.submit(message)
    await mesh.event("stage.completed", 30)
    made = await mesh.manifest(message)
    assert (await mesh.output(made), made.report.summary, joined_parts(made)) == ("ab", {"letters": 2}, ["letters.a", "letters.b"])
    assert made.peak_memory_bytes > 1 << 20


async def test_parts_that_share_a_name_are_a_fault_of_the_stage(mesh: Mesh) -> None:
    """Nothing is published for them."""
    await mesh.worker("ingest", target="tests.support.partitioned:FakePartitioned")
    await mesh.submit(a_message(a_slip(params={"ingest": {"word": "twice"}}), attempt=3))
    assert (await mesh.arrival("dead.ingest", 30)).headers[HEADER_CODE] == "INTERNAL"


def key_of(split: Any, part: str) -> str:
    return keys.part_made(split.job_id, split.position, split.step, split.id, part)
