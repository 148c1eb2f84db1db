"""One step of a job on any number of replicas: worker processes of their own on a real RabbitMQ, the store in a folder."""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.native.management import Management
from shared.broker.rabbitmq import RabbitBroker
from shared.broker.topology import TOPOLOGY
from shared.contracts.manifest import Manifest, OutputFile
from shared.contracts.messages import StageMessage
from shared.contracts.routing import stage_queue
from shared.contracts.split import PartMade, Split
from shared.storage import keys
from shared.storage.directory import DirectoryStore
from tests.benchmarks.scale.replica import Place, Waits
from tests.benchmarks.scale.schedule import Durations
from tests.benchmarks.scale.subjects import SUBJECTS
from tests.support.brokers import make_vhost
from tests.support.builders import a_message, a_publication, a_slip, store_request
from tests.support.servers import BrokerServer, unique

TIMEOUT_S = 3600
COUNTED_S = 12.0  # RabbitMQ counts every five seconds


@dataclass(frozen=True)
class Ran:
    """`seconds`: from the message's publication to the step's commit. `compute`: as the runtime measured it."""

    seconds: float
    deliveries: int
    compute: Durations


def run_job(server: BrokerServer, stage: str, capture: Path, replicas: int, waits: Waits | None = None) -> Ran:
    """Without `waits` the workers compute; they did so once before what is measured."""
    vhost = unique("scale")
    make_vhost(server, vhost, TOPOLOGY)
    with tempfile.TemporaryDirectory() as folder:
        store, work_dir = Path(folder) / "store", Path(folder) / "work"
        place = Place(stage=stage, amqp_url=server.url(vhost), store=store, work_dir=work_dir, waits=waits)
        with _replicas(place, replicas):
            ran = asyncio.run(_jobs(place, server.management, vhost, capture))
    server.management.drop_vhost(vhost)
    return ran


@contextmanager
def _replicas(place: Place, count: int) -> Iterator[None]:
    """All of them take messages."""
    command = [sys.executable, "-m", "tests.benchmarks.scale.replica", place.model_dump_json()]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline(), "a replica did not start"
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)


async def _jobs(place: Place, management: Management, vhost: str, capture: Path) -> Ran:
    store, broker = DirectoryStore(place.store), RabbitBroker(place.amqp_url, "gateway@scale")
    await store.prepare()
    await broker.connect()
    try:
        if place.waits is None:
            await _run(store, broker, place.stage, capture)  # kernels are loaded
        before = await _delivered(management, vhost, place.stage)
        seconds, made = await _run(store, broker, place.stage, capture)
        deliveries = await _delivered(management, vhost, place.stage) - before
    finally:
        await broker.close()
    return Ran(seconds, deliveries, await _durations(store, made))


async def _run(store: DirectoryStore, broker: RabbitBroker, stage: str, capture: Path) -> tuple[float, Manifest]:
    """Seconds, and what was committed."""
    before = SUBJECTS[stage].before
    message = a_message(a_slip((before, stage), hard_limit_s=TIMEOUT_S, memory_limit_bytes=8 << 30)).at(1)
    await _commit_before(store, message, before, capture)
    await store_request(store, message.job_id)
    begun, committed = time.monotonic(), keys.step_manifest(message.job_id, 1, stage)
    await broker.publish(a_publication(message))
    while not await store.exists(committed):
        assert time.monotonic() - begun < TIMEOUT_S
        await asyncio.sleep(0.02)
    took, made = time.monotonic() - begun, Manifest.model_validate_json(await store.get(committed))
    assert made.error is None and made.parts, made.error
    return took, made


async def _delivered(management: Management, vhost: str, stage: str) -> int:
    """Messages that replicas were given so far."""
    await asyncio.sleep(COUNTED_S)
    queue = await asyncio.to_thread(management.call, "GET", f"queues/{vhost}/{stage_queue(stage)}")
    return int(queue.get("message_stats", {}).get("deliver", 0))


async def _commit_before(store: DirectoryStore, message: StageMessage, step: str, capture: Path) -> None:
    """The step before, as if a worker had made it."""
    job, attempt, outputs = message.job_id, "a" * 32, []
    for name, path in _files(capture / "inputs" / step):
        stored = await store.upload(path, keys.attempt_file(job, 0, step, attempt, name), "application/octet-stream")
        outputs.append(OutputFile(name=name, bytes=stored.bytes, sha256=stored.sha256))
    made = Manifest(job_id=job, step=step, position=0, stage=step, stage_version="1", attempt=attempt, outputs=tuple(outputs))
    for key in (keys.attempt_manifest(job, 0, step, attempt), keys.step_manifest(job, 0, step)):
        await store.put(key, made.to_bytes())


def _files(folder: Path) -> list[tuple[str, Path]]:
    return [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]


async def _durations(store: DirectoryStore, manifest: Manifest) -> Durations:
    prefix = keys.step_prefix(manifest.job_id, manifest.position, manifest.step)
    found = [await store.get(key) for key in await store.list(prefix) if key.endswith("/split.json")]
    splits = [Split.model_validate_json(data) for data in found]
    rounds = tuple([(split.seconds, await _parts(store, split)) for split in splits])
    return Durations(rounds, manifest.seconds - sum(split + sum(parts) for split, parts in rounds))


async def _parts(store: DirectoryStore, split: Split) -> tuple[float, ...]:
    made = [keys.part_made(split.job_id, split.position, split.step, split.id, part.name) for part in split.parts]
    return tuple([PartMade.model_validate_json(await store.get(key)).seconds for key in made])
