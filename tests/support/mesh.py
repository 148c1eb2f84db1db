"""A small mesh in memory for tests of the worker loop: broker, store, workers, and what they told."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from shared.broker.memory import MemoryBroker
from shared.broker.memory_server import MemoryServer, Message
from shared.contracts.events import EVENT, Event
from shared.contracts.manifest import Manifest, StageReport
from shared.contracts.messages import StageMessage
from shared.contracts.routing import EVENTS_EXCHANGE, TRACKER_QUEUE, stage_queue
from shared.errors import DependencyUnavailable
from shared.ports import Publication, StoredFile
from shared.runtime.compute import Computed, ComputeTask, OnFinished, OnProgress, StageInfo
from shared.runtime.settings import WorkerSettings
from shared.runtime.worker import StageWorker
from shared.storage import keys
from shared.storage.directory import DirectoryStore
from tests.support.builders import a_publication, store_request
from tests.support.eventually import eventually

NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "ingest": {"images": ("*",)},
    "segmentation": {"ingest": ("out.txt",)},
    "sfm": {"ingest": ("*.txt",), "segmentation": ("*",)},
}
Script = Callable[[ComputeTask, OnProgress], Awaitable[StageReport | None]]


class ScriptedCompute:
    """Computes in this process: `out.txt` is every input and the stage's name. `script` may do anything before that."""

    def __init__(self, stage: str, script: Script | None = None) -> None:
        self.stage = stage
        self.script = script
        self.tasks: list[ComputeTask] = []
        self.ended_early = 0
        self.finished: OnFinished = lambda name: None  # of the task at hand, for the script

    async def describe(self) -> StageInfo:
        return StageInfo(self.stage, "1", NEEDS[self.stage])

    async def run(self, task: ComputeTask, on_progress: OnProgress, on_finished: OnFinished) -> Computed:
        self.tasks.append(task)
        self.finished = on_finished
        try:
            report = await self.script(task, on_progress) if self.script else None
        except BaseException:
            self.ended_early += 1
            raise
        inputs = task.workspace / "inputs"
        texts = [path.read_text() for stage in NEEDS[self.stage] for path in sorted((inputs / stage).rglob("*.txt"))]
        (task.workspace / "outputs").mkdir(exist_ok=True)
        (task.workspace / "outputs" / "out.txt").write_text("".join(texts) + f"{self.stage};")
        return Computed(report or StageReport(summary={"tries": task.tries}), 1 << 20)

    async def close(self) -> None:
        return


def failing(error: Exception) -> ScriptedCompute:
    """An ingest that ends so."""

    async def script(task: ComputeTask, on_progress: OnProgress) -> StageReport | None:
        raise error

    return ScriptedCompute("ingest", script)


class Gate:
    """A compute that waits until it is let go."""

    def __init__(self, stage: str = "ingest") -> None:
        self.entered = asyncio.Event()
        self.let_go = asyncio.Event()
        self.compute = ScriptedCompute(stage, self._script)

    async def _script(self, task: ComputeTask, on_progress: OnProgress) -> StageReport | None:
        self.entered.set()
        await self.let_go.wait()
        return None


class UnsteadyStore(DirectoryStore):
    """Away while `away` is set."""

    away = False

    def _check(self) -> None:
        if self.away:
            raise DependencyUnavailable("the store is away")

    async def get(self, key: str, max_bytes: int = 64 << 20) -> bytes:
        self._check()
        return await super().get(key, max_bytes)

    async def put(self, key: str, data: bytes, content_type: str = "application/json") -> None:
        self._check()
        await super().put(key, data, content_type)

    async def exists(self, key: str) -> bool:
        self._check()
        return await super().exists(key)

    async def upload(self, path: Path, key: str, content_type: str) -> StoredFile:
        self._check()
        return await super().upload(path, key, content_type)

    async def download(self, key: str, path: Path, sha256: str | None = None) -> int:
        self._check()
        return await super().download(key, path, sha256)

    async def ping(self) -> None:
        self._check()
        await super().ping()


class UnsteadyBroker(MemoryBroker):
    """Refuses the next `failures` publishes for which `refuses` is true."""

    failures = 0

    def refuses(self, publication: Publication) -> bool:
        return publication.exchange != EVENTS_EXCHANGE

    async def publish(self, publication: Publication) -> None:
        if self.failures and self.refuses(publication):
            self.failures -= 1
            raise DependencyUnavailable("the broker is away")
        await super().publish(publication)


class Mesh:
    """One broker and one store, with workers on them. `await mesh.stop()` at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = MemoryServer()
        self.store = UnsteadyStore(folder / "store")
        self.gateway = MemoryBroker(self.server)
        self.workers: list[StageWorker] = []
        self.brokers: list[UnsteadyBroker] = []

    async def worker(self, stage: str, compute: Any = None, target: str = "", **settings: Any) -> StageWorker:
        """Starts a worker with a connection of its own; a scripted one unless `target` names a stage class."""
        broker = UnsteadyBroker(self.server)
        defaults: dict[str, Any] = {"work_dir": self.folder / "work", "stop_poll_s": 0.1, "threads": 1, "grace_s": 5}
        worker_settings = WorkerSettings(**(defaults | settings))
        if compute is None and not target:
            compute = ScriptedCompute(stage)
        worker = StageWorker(target, stage, broker, self.store, worker_settings, compute)
        await worker.start()
        self.workers.append(worker)
        self.brokers.append(broker)
        return worker

    async def stop(self) -> None:
        """Stops every worker."""
        for worker in self.workers:
            await worker.stop()

    async def submit(self, message: StageMessage, with_request: bool = True) -> None:
        """What the relay does."""
        if with_request:
            await store_request(self.store, message.job_id)
        await self.gateway.publish(a_publication(message))

    def waiting(self, queue: str) -> list[Message]:
        """Messages that wait in a queue."""
        return self.server.ready(queue)

    def messages(self, queue: str) -> list[StageMessage]:
        """The stage messages that wait in a queue."""
        return [StageMessage.model_validate_json(message.publication.body) for message in self.waiting(queue)]

    def events(self, kind: str = "") -> list[Event]:
        """What was told, first to last; of one type if named."""
        told = [message.publication for message in self.waiting(TRACKER_QUEUE) if message.publication.exchange == EVENTS_EXCHANGE]
        events = [EVENT.validate_python(json.loads(publication.body)) for publication in told]
        return [event for event in events if not kind or event.type == kind]

    async def event(self, kind: str, timeout_s: float = 10) -> Any:
        """The first event of a type, as soon as it is told."""
        return (await eventually(lambda: self.events(kind), timeout_s))[0]

    async def arrival(self, queue: str, timeout_s: float = 10) -> Message:
        """The first message that waits in a queue, as soon as it is there."""
        return (await eventually(lambda: self.waiting(queue), timeout_s))[0]

    async def idle(self, timeout_s: float = 10) -> None:
        """Until no worker has a delivery, and none waits for it."""
        queues = [self.server.queues[stage_queue(worker._name)] for worker in self.workers]
        await eventually(
            lambda: all(worker._idle.is_set() for worker in self.workers) and not any(queue.ready for queue in queues), timeout_s
        )

    async def manifest(self, message: StageMessage, position: int | None = None) -> Manifest:
        """The manifest that a step is committed with."""
        position = message.position if position is None else position
        key = keys.step_manifest(message.job_id, position, message.slip.steps[position].name)
        return Manifest.model_validate_json(await self.store.get(key))

    async def output(self, manifest: Manifest, name: str = "out.txt") -> str:
        """An output of an attempt."""
        return (await self.store.get(output_key(manifest, name))).decode()


def output_key(manifest: Manifest, name: str = "out.txt") -> str:
    """Where an attempt's output is."""
    return keys.attempt_file(manifest.job_id, manifest.position, manifest.step, manifest.attempt, name)


def attempt_key(manifest: Manifest) -> str:
    """Where an attempt's own manifest is."""
    return keys.attempt_manifest(manifest.job_id, manifest.position, manifest.step, manifest.attempt)
