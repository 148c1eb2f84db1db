"""What waits for the store or the disk: put aside within seconds before it is computed, held for long afterwards; never counted."""

from shared.broker.memory_server import Message
from shared.contracts.routing import HEADER_WAITED, WORK_EXCHANGE, stage_queue
from shared.ports import Publication
from tests.support.builders import a_message, a_slip, store_request
from tests.support.eventually import eventually
from tests.support.mesh import Gate, Mesh, ScriptedCompute
from tests.support.partitioned import ONE_ROUND, PartGate, PartitionedCompute, shares
from tests.unit.runtime.test_scatter_gather import QUEUE, ended, prepared


async def come_back(mesh: Mesh, aside: Message, stage: str) -> None:
    """What a retry queue does when its time is over."""
    mesh.server.queues["retry.10s"].ready.remove(aside)
    published = aside.publication
    key = stage_queue(stage)
    await mesh.gateway.publish(Publication(WORK_EXCHANGE, key, published.body, published.message_id, published.type, aside.headers))


async def test_a_step_that_waits_for_the_store_is_soon_put_aside_uncounted(mesh: Mesh) -> None:
    """As it is, as often as it takes; when the store is back, it is computed."""
    compute = ScriptedCompute("ingest")
    await mesh.worker("ingest", compute, input_patience_s=0.1)
    message = a_message()
    await store_request(mesh.store, message.job_id)
    mesh.store.away = True

    await mesh.submit(message, with_request=False)
    first = await mesh.arrival("retry.10s")
    await come_back(mesh, first, "ingest")
    second = await mesh.arrival("retry.10s")
    mesh.store.away = False
    await come_back(mesh, second, "ingest")
    await mesh.event("stage.completed")

    assert [(aside.headers[HEADER_WAITED], aside.publication.body) for aside in (first, second)] == [
        (times, message.to_bytes()) for times in (1, 2)
    ]
    assert [task.tries for task in compute.tasks] == [1]


async def test_workers_lost_while_the_store_is_away_are_not_the_steps_fault(mesh: Mesh) -> None:
    """However many: a step that is put aside begins to count afresh, and is computed when the store is back."""
    mesh.store.away = True
    message = a_message()
    await mesh.submit(message, with_request=False)
    mesh.server.queues["stage.ingest"].ready[0].delivery_count = 5
    compute = ScriptedCompute("ingest")
    await mesh.worker("ingest", compute, input_patience_s=0.1)

    aside = await mesh.arrival("retry.10s")
    mesh.store.away = False
    await mesh.submit(message)
    await mesh.event("stage.completed")

    assert aside.delivery_count == 0
    assert mesh.waiting("dead.ingest") == []


async def test_a_step_that_finds_no_room_on_the_disk_is_soon_put_aside(mesh: Mesh, free_bytes: dict[str, int]) -> None:
    """Another worker may have some."""
    free_bytes["bytes"] = 0
    compute = ScriptedCompute("ingest")
    await mesh.worker("ingest", compute, input_patience_s=0.1)

    await mesh.submit(a_message())
    aside = await mesh.arrival("retry.10s")

    assert (aside.headers[HEADER_WAITED], compute.tasks) == (1, [])


async def test_what_was_computed_is_held_for_as_long_as_its_step_may_take(mesh: Mesh) -> None:
    """Longer than anything would be held before; then it waits in retry.5m."""
    gate = Gate()
    await mesh.worker("ingest", gate.compute, input_patience_s=0.01)
    message = a_message(a_slip(hard_limit_s=1.0))
    await mesh.submit(message)
    await gate.entered.wait()

    mesh.store.away = True
    gate.let_go.set()
    aside = await mesh.arrival("retry.5m")

    assert (aside.headers[HEADER_WAITED], aside.publication.body) == (1, message.to_bytes())
    assert mesh.waiting("retry.10s") == []
    mesh.store.away = False


async def test_a_part_that_waits_for_the_store_is_put_aside_alone(mesh: Mesh) -> None:
    """The others were made; the one that waits comes back as it is, and the step is whole in the end."""
    gate = PartGate()
    message = await prepared(mesh, PartitionedCompute("segmentation", ONE_ROUND, gate.script))
    await eventually(lambda: gate.entered == ["a"])
    mesh.store.away = True
    await mesh.worker("segmentation", PartitionedCompute("segmentation", ONE_ROUND), input_patience_s=0.1)

    await eventually(lambda: len(mesh.waiting("retry.10s")) == 2)
    aside, messages = mesh.waiting("retry.10s"), mesh.messages("retry.10s")
    mesh.store.away = False
    gate.let_go.set()
    for each in aside:
        await come_back(mesh, each, "segmentation")
    await ended(mesh)

    assert [each.headers[HEADER_WAITED] for each in aside] == [1, 1]
    assert shares(messages) == ["b", "c"]
    assert (await mesh.manifest(message)).tries == 1
    assert mesh.waiting(QUEUE) == []
