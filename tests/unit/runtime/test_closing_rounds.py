"""What follows a round of a divided step is published once, by however many workers it was made; and never by nobody."""

import asyncio
import json
from collections.abc import Sequence

import pytest

from shared.contracts.messages import StageMessage
from shared.contracts.routing import HEADER_LOOKED
from shared.ports import Publication
from shared.runtime.compute import ComputeTask, OnProgress
from shared.runtime.share_turn import MAX_LOOKS
from shared.runtime.stage import Part
from shared.storage import keys
from tests.support.builders import a_publication
from tests.support.eventually import eventually
from tests.support.mesh import Mesh
from tests.support.partitioned import TWO_ROUNDS, PartGate, PartitionedCompute, Rounds, shares, splits_of, the_split
from tests.unit.runtime.test_scatter_gather import QUEUE, ended, ended_without_manifest, prepared

LATER = "retry.1m"
MANY: Rounds = {"first": tuple(map(Part, "abcdefgh")), "second": tuple(map(Part, "ijklmnop"))}


async def closes(mesh: Mesh, message: StageMessage, part: str) -> None:
    """Some worker means to bring on what follows the step's first round, in this part's name."""
    split = min(await splits_of(mesh, message), key=lambda split: len(split.before))
    await mesh.store.put(keys.part_closes(message.job_id, 1, "segmentation", split.id, part), b"")


async def submit_again(mesh: Mesh, message: StageMessage, looked: int) -> None:
    """As it comes back from its retry queue."""
    publication = a_publication(message)
    publication.headers[HEADER_LOOKED] = looked  # type: ignore[index]
    await mesh.gateway.publish(publication)


@pytest.mark.parametrize("workers", [1, 8])
async def test_each_part_is_asked_for_once(mesh: Mesh, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """However many share the step: its message, one for each part, one for what follows each round; few look again."""
    message, queue, arrived = await prepared(mesh), mesh.server.queues[QUEUE], []
    put = queue.put
    monkeypatch.setattr(queue, "put", lambda message: (arrived.append(message), put(message)))
    computes = [PartitionedCompute("segmentation", MANY) for _ in range(workers)]
    for compute in computes:
        await mesh.worker("segmentation", compute)
    await eventually(lambda: len(mesh.events("stage.completed")) >= 2, 60)
    await mesh.idle(60)
    computed = sorted(task.part for compute in computes for task in compute.tasks if task.part)
    assert "".join(computed) == "abcdefghijklmnop"
    assert 16 + 2 <= len(arrived) <= 16 + 2 * 3
    assert len((await mesh.manifest(message)).parts) == 16


async def test_of_those_that_commit_the_last_parts_one_publishes_what_follows(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first by name; the other looks again whether it did."""
    gate, both, listed, calls = PartGate(), asyncio.Barrier(2), mesh.store.list, list[str]()

    async def together(prefix: str) -> Sequence[str]:
        """Both see both parts, then both see both closers."""
        if gate.let_go.is_set() and len(calls) < 4:
            calls.append(prefix)
            await both.wait()
        return await listed(prefix)

    monkeypatch.setattr(mesh.store, "list", together)
    computes = [PartitionedCompute("segmentation", {"only": (Part("a"), Part("b"))}, gate.script) for _ in range(2)]
    await prepared(mesh, *computes)
    await eventually(lambda: len(gate.entered) == 2)
    gate.let_go.set()
    await ended(mesh)
    assert [compute.asked().count("join") for compute in computes] in ([0, 1], [1, 0])
    assert shares(mesh.messages(LATER)) == ["b"]
    assert mesh.waiting(LATER)[0].headers[HEADER_LOOKED] == 1


@pytest.mark.parametrize("part", ["b", None])
async def test_who_left_it_to_another_goes_on_in_the_end(mesh: Mesh, part: str | None) -> None:
    """That one was lost, and nobody has its message any more: after a few looks."""
    compute = PartitionedCompute("segmentation")
    message = await ended_without_manifest(mesh, compute)
    share = message.share(await the_split(mesh, message), part, "b" if part is None else None)
    await closes(mesh, message, "a")
    await mesh.submit(share, with_request=False)
    await mesh.idle()
    assert mesh.messages(LATER) == [share]
    await submit_again(mesh, share, MAX_LOOKS - 1)
    await mesh.idle()
    assert (mesh.messages(LATER), len(compute.tasks)) == ([share, share], 5)
    await submit_again(mesh, share, MAX_LOOKS)
    await ended(mesh, 3)
    assert compute.asked()[5:] == ["join"]


@pytest.mark.parametrize("closer", ["a", None])
async def test_what_follows_is_done_in_the_name_of_the_first_closer(mesh: Mesh, closer: str | None) -> None:
    """Or of nobody: then a step was published again, and it is not asked who else does it."""
    compute = PartitionedCompute("segmentation")
    message = await ended_without_manifest(mesh, compute)
    for part in "ab":
        await closes(mesh, message, part)
    await mesh.submit(message.share(await the_split(mesh, message), None, closer), with_request=False)
    await ended(mesh, 3)
    assert compute.asked()[5:] == ["join"]


@pytest.mark.parametrize("part", ["a", None])
async def test_what_comes_after_the_next_round_was_published_is_acked(mesh: Mesh, part: str | None) -> None:
    """It publishes nothing, looks for nothing, and computes nothing."""
    compute = PartitionedCompute("segmentation", TWO_ROUNDS)
    message = await prepared(mesh, compute)
    await ended(mesh)
    await mesh.store.delete([keys.step_manifest(message.job_id, 1, "segmentation")])
    await mesh.submit(message.share(await the_split(mesh, message, "first"), part), with_request=False)
    await mesh.idle()
    assert (len(compute.tasks), mesh.waiting(LATER)) == (8, [])


async def test_a_closer_that_comes_while_another_divides_goes_first(mesh: Mesh) -> None:
    """The other publishes none of the parts: they would be there twice."""
    message = await prepared(mesh)

    async def meanwhile(task: ComputeTask, on_progress: OnProgress) -> None:
        if (task.ask, task.round) == ("split", "second") and not mesh.waiting(LATER):
            await closes(mesh, message, "a")

    compute = PartitionedCompute("segmentation", TWO_ROUNDS, meanwhile)
    await mesh.worker("segmentation", compute)
    await mesh.arrival(LATER)
    await mesh.idle()
    assert compute.asked()[3:] == ["split second"]
    await mesh.submit(message.share(await the_split(mesh, message, "first"), "a"), with_request=False)
    await ended(mesh)
    assert compute.asked()[4:] == ["split second", "run_part second.x", "run_part second.y", "run_part second.z", "join"]


async def test_who_is_lost_between_two_parts_of_the_next_round_loses_none(mesh: Mesh) -> None:
    """The round is not marked as followed yet: the message comes again, and publishes what nobody has made."""
    message = await prepared(mesh)

    def cuts(publication: Publication) -> bool:
        if json.loads(publication.body).get("part") != "y":
            return False
        mesh.brokers[1].drop_connection()
        return True

    compute = PartitionedCompute("segmentation", TWO_ROUNDS)
    worker = await mesh.worker("segmentation", compute, transfers=1)
    mesh.brokers[1].failures, mesh.brokers[1].refuses = 1, cuts  # type: ignore[method-assign]
    await ended(mesh)
    assert worker.ready()
    assert len((await mesh.manifest(message)).parts) == 5
    assert compute.asked().count("split second") == 1


async def test_a_later_round_that_nobody_can_read_is_divided_once_more(mesh: Mesh) -> None:
    """From the first one on, when the step is published again: its parts must fit together."""
    compute = PartitionedCompute("segmentation", TWO_ROUNDS)
    message = await prepared(mesh, compute)
    await ended(mesh)
    second = await the_split(mesh, message, "second")
    await mesh.store.put(keys.split(message.job_id, 1, "segmentation", second.id), b"{}")
    await mesh.store.delete([keys.step_manifest(message.job_id, 1, "segmentation")])
    await mesh.submit(message, with_request=False)
    await ended(mesh, 3)
    assert compute.asked()[8:] == compute.asked()[:8]
