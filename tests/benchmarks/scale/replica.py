"""python -m tests.benchmarks.scale.replica PLACE: one replica of a stage, in a process of its own; PLACE is `Place` as JSON.

The product's worker loop and its connection to RabbitMQ; the store is a folder. Says `ready` when it takes messages, ends with SIGTERM.
"""

import asyncio
import signal
import sys
from pathlib import Path

from loguru import logger
from pydantic import BaseModel

from shared.broker.rabbitmq import RabbitBroker
from shared.runtime.settings import WorkerSettings
from shared.runtime.worker import StageWorker
from shared.storage.directory import DirectoryStore
from tests.benchmarks.scale.recording import read
from tests.benchmarks.scale.stand_in import StandIn
from tests.benchmarks.scale.subjects import SUBJECTS

READY = "ready"


class Waits(BaseModel):
    """What stands in for compute: a recording, and how much longer than that it waits."""

    recorded: Path
    stretch: float
    full_size: bool

    def stand_in(self, stage: str) -> StandIn:
        """One replica's."""
        return StandIn(SUBJECTS[stage].stage, read(self.recorded), self.stretch, self.full_size)


class Place(BaseModel):
    """Where a replica works, and what stage it is of. Without `waits` it computes."""

    stage: str
    amqp_url: str
    store: Path
    work_dir: Path
    waits: Waits | None = None


async def serve(place: Place) -> None:
    """Until SIGTERM."""
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    settings = WorkerSettings(work_dir=place.work_dir, stop_poll_s=2.0, threads=1, grace_s=5)
    broker = RabbitBroker(place.amqp_url, f"{place.stage}@replica")
    stand_in = place.waits.stand_in(place.stage) if place.waits is not None else None
    worker = StageWorker(SUBJECTS[place.stage].target, place.stage, broker, DirectoryStore(place.store), settings, stand_in)
    await broker.connect()
    await worker.start()
    print(READY, flush=True)
    await leaving.wait()
    await worker.stop()
    await broker.close()


if __name__ == "__main__":
    logger.remove()  # a line for every part
    asyncio.run(serve(Place.model_validate_json(sys.argv[1])))
