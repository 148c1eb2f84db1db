"""Outputs that go up while the stage still computes: they save time, and nothing rests on them."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.contracts.manifest import StageReport
from shared.contracts.messages import StageMessage
from shared.errors import ChildDied
from shared.runtime.compute import ComputeTask, OnProgress
from shared.runtime.stage import Part
from shared.storage import keys
from tests.support.builders import a_message
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, ScriptedCompute
from tests.support.partitioned import PartitionedCompute

EARLY = b"finished early"


async def stored(mesh: Mesh, message: StageMessage, name: str = "") -> list[str]:
    """What the store has of the step, by name."""
    found = await mesh.store.list(keys.step_prefix(message.job_id, message.position, message.step.name))
    return [key for key in found if key.endswith(name)]


class Early:
    """A compute that finishes `early.bin` (or says so of another name), waits until that is stored, and goes on with `then`."""

    def __init__(
        self, mesh: Mesh, message: StageMessage, then: Callable[[Path], None] = lambda outputs: None, says: str = "early.bin"
    ) -> None:
        self.compute = ScriptedCompute(message.step.stage, self._script)
        self._mesh, self._message, self._then, self._says = mesh, message, then, says
        self.seen: list[str] = []

    async def _script(self, task: ComputeTask, on_progress: OnProgress) -> StageReport | None:
        outputs = task.workspace / "outputs"
        outputs.mkdir(exist_ok=True)
        (outputs / "early.bin").write_bytes(EARLY)
        self.compute.finished(self._says)
        self.compute.finished(self._says)  # once more changes nothing
        if self._says == "early.bin":
            await eventually(lambda: any(self._mesh.folder.glob("store/**/early.bin")))
            self.seen = await stored(self._mesh, self._message)
        else:
            await asyncio.sleep(0.1)
        self._then(outputs)
        return None


async def test_what_is_finished_is_stored_while_the_rest_is_computed(mesh: Mesh) -> None:
    """The object is there before the compute ends, and no manifest; in the end one manifest names it and the rest, once each."""
    message = a_message()
    early = Early(mesh, message)
    await mesh.worker("ingest", early.compute)

    await mesh.submit(message)
    await mesh.event("stage.completed")

    manifest = await mesh.manifest(message)
    assert [key.rpartition("/")[2] for key in early.seen] == ["early.bin"]
    assert [output.name for output in manifest.outputs] == ["early.bin", "out.txt"]
    assert manifest.outputs[0].sha256 == hashlib.sha256(EARLY).hexdigest()
    assert await mesh.output(manifest, "early.bin") == EARLY.decode()


async def test_a_child_that_dies_after_an_early_upload_leaves_nothing_that_anybody_reads(mesh: Mesh) -> None:
    """No manifest names the dead attempt's object; the next attempt has a prefix of its own."""
    message = a_message()

    def die(outputs: Path) -> None:
        raise ChildDied("the child process ended by signal SIGSEGV")

    early = Early(mesh, message, die)
    worker = await mesh.worker("ingest", early.compute)
    await mesh.submit(message)
    again = StageMessage.model_validate_json((await mesh.arrival("retry.10s")).publication.body)
    dead = await stored(mesh, message)
    await worker.stop()
    await mesh.worker("ingest", Early(mesh, message).compute)

    await mesh.submit(again, with_request=False)
    await mesh.event("stage.completed")

    assert (again.attempt, [key.rpartition("/")[2] for key in dead]) == (2, ["early.bin"])
    manifest = await mesh.manifest(message)
    assert manifest.attempt not in dead[0]
    assert await mesh.output(manifest, "early.bin") == EARLY.decode()


async def test_a_job_that_is_stopped_after_an_early_upload_is_not_committed(mesh: Mesh) -> None:
    """The computation ends; there is no manifest, and nothing goes on."""
    message, never = a_message(), asyncio.Event()
    early = Early(mesh, message)
    script = early.compute.script
    assert script is not None

    async def and_wait(task: ComputeTask, on_progress: OnProgress) -> StageReport | None:
        await script(task, on_progress)
        await never.wait()
        return None

    early.compute.script = and_wait
    await mesh.worker("ingest", early.compute)
    await mesh.submit(message)
    await eventually(lambda: early.seen)

    await mesh.store.put(keys.stop(message.job_id), b"cancelled")
    await mesh.idle()

    assert early.compute.ended_early == 1
    assert not await stored(mesh, message, "manifest.json")
    assert not mesh.messages("stage.segmentation")


@pytest.mark.parametrize("change", ["longer", "same size", "another file", "gone"])
async def test_an_output_that_is_changed_after_it_was_finished_ends_the_attempt(mesh: Mesh, change: str) -> None:
    """The step is tried again: what is stored is not what the stage left, and a key never has two contents."""
    message = a_message()

    def changed(outputs: Path) -> None:
        path = outputs / "early.bin"
        if change in {"another file", "gone"}:
            path.rename(outputs / "elsewhere.bin")
        if change != "gone":
            path.write_bytes(EARLY[::-1] + b"!" * (change == "longer"))

    await mesh.worker("ingest", Early(mesh, message, changed).compute)

    await mesh.submit(message)

    again = StageMessage.model_validate_json((await mesh.arrival("retry.10s")).publication.body)
    assert again.attempt == 2
    assert not await stored(mesh, message, "manifest.json")


@pytest.mark.parametrize(
    "name", ["../request.json", "/etc/hostname", "manifest.json", "link.bin", "folder/hostname", "nothing", "a\0b", ""]
)
async def test_what_is_none_of_its_outputs_is_not_stored_whatever_the_child_says(mesh: Mesh, name: str) -> None:
    """The child reads hostile files: no name leads it out of its outputs, or to the runtime's own manifest."""
    message = a_message()
    early = Early(mesh, message, says=name)
    script = early.compute.script
    assert script is not None

    async def with_links(task: ComputeTask, on_progress: OnProgress) -> StageReport | None:
        (task.workspace / "outputs").mkdir()
        (task.workspace / "outputs" / "link.bin").symlink_to("/etc/hostname")
        (task.workspace / "outputs" / "folder").symlink_to("/etc")
        return await script(task, on_progress)

    early.compute.script = with_links
    await mesh.worker("ingest", early.compute)

    await mesh.submit(message)

    await mesh.arrival("retry.10s")
    assert not await stored(mesh, message)


async def test_a_store_that_is_away_meanwhile_gets_everything_when_it_is_back(mesh: Mesh) -> None:
    """The computation goes on; nothing is lost but the time that was to be saved."""
    message = a_message()

    async def while_away(task: ComputeTask, on_progress: OnProgress) -> StageReport | None:
        mesh.store.away = True
        outputs = task.workspace / "outputs"
        outputs.mkdir()
        (outputs / "early.bin").write_bytes(EARLY)
        compute.finished("early.bin")
        await asyncio.sleep(0.2)
        asyncio.get_running_loop().call_later(0.3, setattr, mesh.store, "away", False)
        return None

    compute = ScriptedCompute("ingest", while_away)
    await mesh.worker("ingest", compute)

    await mesh.submit(message)
    await mesh.event("stage.completed")

    manifest = await mesh.manifest(message)
    assert len(compute.tasks) == 1
    assert await mesh.output(manifest, "early.bin") == EARLY.decode()
    assert await mesh.output(manifest) == "ingest;"


async def test_an_early_upload_that_fails_is_made_up_for(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that cannot be read for a moment costs nothing but that moment."""
    message, upload, failures = a_message(), type(mesh.store).upload, [OSError("no such luck")]

    async def unlucky(store: object, path: Path, key: str, content_type: str) -> object:
        if failures:
            raise failures.pop()
        return await upload(mesh.store, path, key, content_type)

    monkeypatch.setattr(type(mesh.store), "upload", unlucky)

    async def wait_for_failure(task: ComputeTask, on_progress: OnProgress) -> StageReport | None:
        (task.workspace / "outputs").mkdir()
        (task.workspace / "outputs" / "early.bin").write_bytes(EARLY)
        compute.finished("early.bin")
        await eventually(lambda: not failures)
        return None

    compute = ScriptedCompute("ingest", wait_for_failure)
    await mesh.worker("ingest", compute)

    await mesh.submit(message)
    await mesh.event("stage.completed")

    assert await mesh.output(await mesh.manifest(message), "early.bin") == EARLY.decode()


async def test_parts_and_joins_have_early_outputs_too(mesh: Mesh) -> None:
    """Each under its own delivery's prefix; what a split writes is nobody's."""
    message = a_message().at(0)

    async def finish(task: ComputeTask, on_progress: OnProgress) -> StageReport | None:
        outputs = task.workspace / "outputs"
        outputs.mkdir()
        (outputs / "early.bin").write_text(task.part or task.ask)
        compute.finished("early.bin")
        await asyncio.sleep(0.1)
        return None

    compute = PartitionedCompute("ingest", {"only": (Part("a"), Part("b"))}, finish)
    await mesh.worker("ingest", compute)

    await mesh.submit(message)
    await mesh.event("stage.completed")

    manifest = await mesh.manifest(message)
    found = sorted([(await mesh.store.get(key)).decode() for key in await stored(mesh, message, "early.bin")])
    assert found == ["a", "b", "join"]
    assert await mesh.output(manifest, "early.bin") == "join"
