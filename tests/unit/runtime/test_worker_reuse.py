"""A retried job takes over what did not change: the same digest, the same bytes, no compute."""

import asyncio
from typing import Any

import pytest

from shared.contracts.messages import StageMessage
from shared.contracts.request import JobRequest
from shared.errors import ObjectMissing, PermanentError
from shared.runtime.compute import ComputeTask, OnProgress
from shared.storage import keys
from tests.support.builders import a_message, a_request, a_slip
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, ScriptedCompute, attempt_key, output_key

STAGES = ("ingest", "segmentation", "sfm")


async def computes(mesh: Mesh) -> dict[str, ScriptedCompute]:
    found = {stage: ScriptedCompute(stage) for stage in STAGES}
    for stage, compute in found.items():
        await mesh.worker(stage, compute)
    return found


async def run_job(mesh: Mesh, message: StageMessage, **request: Any) -> None:
    asked: JobRequest = a_request(message.job_id).model_copy(update=request)

    def ended() -> bool:
        return any((event.job_id, event.step) == (message.job_id, STAGES[-1]) for event in mesh.events("stage.completed"))

    await mesh.store.put(keys.request(message.job_id), asked.to_bytes())
    await mesh.submit(message, with_request=False)
    await eventually(ended)
    await mesh.idle()


def tasks(computes: dict[str, ScriptedCompute]) -> list[int]:
    return [len(computes[stage].tasks) for stage in STAGES]


async def test_nothing_is_computed_twice_where_nothing_changed(mesh: Mesh) -> None:
    """Every step is copied: own keys, the parent's bytes and sums, told as completed, seconds 0; and it outlives the parent."""
    used = await computes(mesh)
    parent, child = a_message(), a_message()
    await run_job(mesh, parent)
    await run_job(mesh, child, parent=parent.job_id)
    assert tasks(used) == [1, 1, 1]
    await mesh.store.delete(await mesh.store.list(keys.job_prefix(parent.job_id)))
    for position in range(3):
        made = await mesh.manifest(child, position)
        assert (made.reused_from, made.seconds, made.job_id) == (parent.job_id, 0.0, child.job_id)
        assert await mesh.output(made)
        assert attempt_key(made) in [event.manifest for event in mesh.events("stage.completed")]


async def test_what_changed_and_what_follows_it_is_computed(mesh: Mesh) -> None:
    """Other options in the second step: the first is copied; the third is copied too, because what it reads came out the same."""
    used = await computes(mesh)
    parent = a_message(a_slip(params={"segmentation": {"word": "old"}}))
    child = a_message(a_slip(params={"segmentation": {"word": "new"}}))
    await run_job(mesh, parent)
    await run_job(mesh, child, parent=parent.job_id)
    assert tasks(used) == [1, 2, 1]
    manifests = [await mesh.manifest(child, position) for position in range(3)]
    assert [made.reused_from for made in manifests] == [parent.job_id, None, parent.job_id]
    assert manifests[2].chain == (manifests[0].link(), manifests[1].link())


@pytest.mark.parametrize("change", [{"outputs": ("report.json",)}, {"preset": "fastest"}])
async def test_the_last_step_heeds_what_is_asked_of_the_report(mesh: Mesh, change: dict[str, Any]) -> None:
    """Other outputs or another preset: only the last step is made again."""
    used = await computes(mesh)
    parent, child = a_message(), a_message()
    await run_job(mesh, parent)
    await run_job(mesh, child, parent=parent.job_id, **change)
    assert tasks(used) == [1, 1, 2]


async def test_a_step_that_failed_is_computed_again(mesh: Mesh) -> None:
    """An error is never taken over."""
    fails = True

    async def script(task: ComputeTask, on_progress: OnProgress) -> None:
        if fails:
            raise PermanentError("TOO_FEW_REGISTERED")

    used = {stage: ScriptedCompute(stage, script if stage == "sfm" else None) for stage in STAGES}
    for stage, compute in used.items():
        await mesh.worker(stage, compute)
    parent, child = a_message(), a_message()
    await mesh.submit(parent)
    await mesh.event("stage.failed")
    await mesh.idle()
    fails = False
    await mesh.store.put(keys.request(child.job_id), a_request(child.job_id).model_copy(update={"parent": parent.job_id}).to_bytes())
    await mesh.submit(child, with_request=False)
    await eventually(lambda: len(mesh.events("stage.completed")) == 5)
    assert tasks(used) == [1, 1, 2]


async def test_a_parent_that_goes_while_it_is_copied_costs_only_time(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be copied is computed."""
    used = await computes(mesh)
    parent, child = a_message(), a_message()
    await run_job(mesh, parent)

    async def gone(source: str, target: str) -> None:
        await asyncio.sleep(0)
        raise ObjectMissing(source)

    monkeypatch.setattr(mesh.store, "copy", gone)
    await run_job(mesh, child, parent=parent.job_id)
    assert tasks(used) == [2, 2, 2]
    assert (await mesh.manifest(child, 2)).reused_from is None


async def test_a_damaged_copy_is_repaired_by_computing(mesh: Mesh) -> None:
    """The parent's file was damaged and copied so: its reader finds it, and the step is computed, not copied once more."""
    used = await computes(mesh)
    parent, child = a_message(), a_message(a_slip(params={"segmentation": {"word": "new"}}))
    await run_job(mesh, parent)
    await mesh.store.put(output_key(await mesh.manifest(parent, 0)), b"damaged")
    await run_job(mesh, child, parent=parent.job_id)
    assert tasks(used) == [2, 2, 2]
    assert await mesh.output(await mesh.manifest(child, 2)) == "ingest;ingest;segmentation;sfm;"
