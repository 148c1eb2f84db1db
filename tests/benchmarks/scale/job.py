"""One job of mvs on any number of replicas: the real worker loop, each with its own connection, broker in memory, store in a folder."""

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared.contracts.manifest import Manifest, OutputFile
from shared.contracts.messages import StageMessage
from shared.contracts.routing import stage_queue
from shared.contracts.split import PartMade, Split
from shared.storage import keys
from tests.benchmarks.scale.schedule import Durations
from tests.benchmarks.scale.stand_in import StandIn
from tests.support.builders import a_message, a_slip
from tests.support.mesh import Mesh

TIMEOUT_S = 3600


@dataclass(frozen=True)
class Ran:
    """`seconds`: from the message's publication to the step's commit. `compute`: as the runtime measured it."""

    seconds: float
    deliveries: int
    compute: Durations


async def run_job(sfm: Path, replicas: int, stand_in: Callable[[], StandIn] | None = None) -> Ran:
    """Real workers, already warm, without a `stand_in`."""
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder))
        await mesh.store.prepare()
        try:
            for _ in range(replicas):
                compute, target = (stand_in(), "") if stand_in else (None, "services.mvs.stage:MvsStage")
                await mesh.worker("mvs", compute, target, stop_poll_s=2.0)
            if stand_in is None:
                await _run(mesh, sfm)  # kernels are loaded
            return await _run(mesh, sfm)
        finally:
            await mesh.stop()


async def _run(mesh: Mesh, sfm: Path) -> Ran:
    message = a_message(a_slip(("sfm", "mvs"), hard_limit_s=TIMEOUT_S, memory_limit_bytes=8 << 30)).at(1)
    await _commit_sfm(mesh, message, sfm)
    arrived = _counted(mesh)
    begun, committed = time.monotonic(), keys.step_manifest(message.job_id, 1, "mvs")
    await mesh.submit(message)
    while not await mesh.store.exists(committed):
        assert time.monotonic() - begun < TIMEOUT_S
        await asyncio.sleep(0.02)
    took, made = time.monotonic() - begun, await mesh.manifest(message)
    assert made.error is None and made.parts, made.error
    await mesh.idle()
    return Ran(took, len(arrived), await _durations(mesh, made))


def _counted(mesh: Mesh) -> list[object]:
    """What comes into the stage's queue from now on."""
    queue, arrived = mesh.server.queues[stage_queue("mvs")], list[object]()
    put = type(queue).put.__get__(queue)
    queue.put = lambda message: (arrived.append(message), put(message))[1]  # type: ignore[method-assign]
    return arrived


async def _commit_sfm(mesh: Mesh, message: StageMessage, sfm: Path) -> None:
    """The step before, as if a worker had made it."""
    job, attempt, outputs = message.job_id, "a" * 32, []
    for name, path in _files(sfm):
        stored = await mesh.store.upload(path, keys.attempt_file(job, 0, "sfm", attempt, name), "application/octet-stream")
        outputs.append(OutputFile(name=name, bytes=stored.bytes, sha256=stored.sha256))
    made = Manifest(job_id=job, step="sfm", position=0, stage="sfm", stage_version="1", attempt=attempt, outputs=tuple(outputs))
    for key in (keys.attempt_manifest(job, 0, "sfm", attempt), keys.step_manifest(job, 0, "sfm")):
        await mesh.store.put(key, made.to_bytes())


def _files(folder: Path) -> list[tuple[str, Path]]:
    return [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]


async def _durations(mesh: Mesh, manifest: Manifest) -> Durations:
    prefix = keys.step_prefix(manifest.job_id, manifest.position, manifest.step)
    found = [await mesh.store.get(key) for key in await mesh.store.list(prefix) if key.endswith("/split.json")]
    splits = [Split.model_validate_json(data) for data in found]
    rounds = tuple([(split.seconds, await _parts(mesh, split)) for split in splits])
    return Durations(rounds, manifest.seconds - sum(split + sum(parts) for split, parts in rounds))


async def _parts(mesh: Mesh, split: Split) -> tuple[float, ...]:
    made = [keys.part_made(split.job_id, split.position, split.step, split.id, part.name) for part in split.parts]
    return tuple([PartMade.model_validate_json(await mesh.store.get(key)).seconds for key in made])
