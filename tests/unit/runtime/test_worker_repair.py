"""Damaged and missing artifacts: taken back down the chain, computed again, and in the end a permanent error."""

from collections.abc import AsyncIterator

import pytest

from shared.contracts.manifest import Manifest
from shared.contracts.messages import StageMessage
from shared.contracts.request import ImageSource
from shared.storage import keys
from tests.support.builders import a_message, store_request
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, ScriptedCompute, attempt_key, output_key


class Job:
    """A job whose first two steps are committed; the third has no worker yet."""

    def __init__(self, mesh: Mesh, message: StageMessage) -> None:
        self.mesh = mesh
        self.message = message
        self.computes = {stage: ScriptedCompute(stage) for stage in ("ingest", "segmentation", "sfm")}

    async def prepare(self) -> None:
        await self.mesh.worker("ingest", self.computes["ingest"])
        await self.mesh.worker("segmentation", self.computes["segmentation"])
        await self.mesh.submit(self.message)
        await self.mesh.arrival("stage.sfm")

    async def manifests(self) -> list[Manifest]:
        return [await self.mesh.manifest(self.message, position) for position in (0, 1)]

    async def finish(self) -> Manifest:
        await self.mesh.worker("sfm", self.computes["sfm"])
        await eventually(lambda: self.mesh.events("stage.completed")[-1].step == "sfm")  # type: ignore[union-attr]
        return await self.mesh.manifest(self.message, 2)

    def runs(self) -> dict[str, int]:
        return {stage: len(compute.tasks) for stage, compute in self.computes.items()}


@pytest.fixture
async def job(mesh: Mesh) -> AsyncIterator[Job]:
    job = Job(mesh, a_message())
    await job.prepare()
    yield job


async def test_a_flipped_bit_is_found_and_computed_again(mesh: Mesh, job: Job) -> None:
    """A damaged output of the first step takes back every step that used it; the chain is whole at the end."""
    first, second = await job.manifests()
    await mesh.store.put(output_key(first), b"ingesT;")

    last = await job.finish()

    assert job.runs() == {"ingest": 2, "segmentation": 2, "sfm": 1}
    assert await mesh.output(last) == "ingest;ingest;segmentation;sfm;"
    assert not {first.attempt, second.attempt} & {link.attempt for link in last.chain}


async def test_damage_in_the_previous_step_alone_takes_back_only_that(mesh: Mesh, job: Job) -> None:
    """Steps that did not use the damaged attempt are kept."""
    first, second = await job.manifests()
    await mesh.store.put(output_key(second), b"")

    last = await job.finish()

    assert job.runs() == {"ingest": 1, "segmentation": 2, "sfm": 1}
    assert last.chain[0] == first.link()


async def test_a_missing_output_counts_as_damaged(mesh: Mesh, job: Job) -> None:
    """What is gone is made again."""
    first, _ = await job.manifests()
    await mesh.store.delete([output_key(first)])

    await job.finish()

    assert job.runs()["ingest"] == 2


@pytest.mark.parametrize("damage", [b"{", b"{}", None])
async def test_a_damaged_manifest_in_the_chain_is_repaired(mesh: Mesh, job: Job, damage: bytes | None) -> None:
    """An attempt whose manifest nobody can read is as good as lost."""
    first, _ = await job.manifests()
    await (mesh.store.put(attempt_key(first), damage) if damage is not None else mesh.store.delete([attempt_key(first)]))

    last = await job.finish()

    assert job.runs() == {"ingest": 2, "segmentation": 2, "sfm": 1}
    assert len(last.chain) == 2


async def test_a_damaged_step_manifest_is_repaired(mesh: Mesh, job: Job) -> None:
    """The commit point itself: removed, and the step computed again."""
    await mesh.store.put(keys.step_manifest(job.message.job_id, 1, "segmentation"), b"garbage")

    await job.finish()

    assert job.runs() == {"ingest": 1, "segmentation": 2, "sfm": 1}


async def test_an_own_manifest_that_nobody_can_read_is_repaired(mesh: Mesh, job: Job) -> None:
    """The step is computed again and commits."""
    await mesh.store.put(keys.step_manifest(job.message.job_id, 2, "sfm"), b"garbage")

    await job.finish()

    assert job.runs() == {"ingest": 1, "segmentation": 1, "sfm": 1}


async def test_the_third_finding_is_final(mesh: Mesh, job: Job) -> None:
    """A store that damages again and again ends the job with ARTIFACT_CORRUPT, committed."""

    async def damage_ingest() -> None:
        first, _ = await job.manifests()
        await mesh.store.put(output_key(first), b"x")

    await damage_ingest()
    message = job.message.at(2).model_copy(update={"corrupt_findings": 2})
    mesh.server.queues["stage.sfm"].ready.clear()
    await mesh.worker("sfm", job.computes["sfm"])
    await mesh.submit(message, with_request=False)
    failed = await mesh.event("stage.failed")

    manifest = await mesh.manifest(message)
    assert manifest.error is not None
    assert (manifest.error.code, failed.manifest) == ("ARTIFACT_CORRUPT", attempt_key(manifest))


async def test_a_damaged_upload_ends_as_corrupt(mesh: Mesh) -> None:
    """Nobody can make an upload again: after three findings the job fails instead of going round for ever."""
    await mesh.worker("ingest")
    message = a_message()
    key = keys.image(message.job_id, 0, "a.jpg")
    await mesh.store.put(key, b"damaged")
    await store_request(mesh.store, message.job_id, [ImageSource(name="a.jpg", key=key, sha256="0" * 64)])

    await mesh.submit(message, with_request=False)
    await mesh.event("stage.failed")

    error = (await mesh.manifest(message)).error
    assert error is not None
    assert error.code == "ARTIFACT_CORRUPT"


async def test_a_manifest_that_names_a_path_outside_is_refused(mesh: Mesh, job: Job) -> None:
    """Not even our own store may write outside a workspace."""
    first, _ = await job.manifests()
    evil = first.outputs[0].model_copy(update={"name": "../../evil.txt"})
    await mesh.store.put(attempt_key(first), first.model_copy(update={"outputs": (evil,)}).to_bytes())

    await job.finish()

    assert job.runs()["ingest"] == 2
    assert not list(mesh.folder.rglob("evil.txt"))
