"""python -m tests.benchmarks.scale.replica PLACE: one replica of mvs, in a process of its own as replicas are; PLACE is `Place` as JSON.

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

READY = "ready"
TARGET = "services.mvs.stage:MvsStage"


class Waits(BaseModel):
    """What stands in for compute: a recording, and how much longer than that it waits."""

    recorded: Path
    stretch: float
    full_size: bool

    def stand_in(self) -> StandIn:
        """One replica's."""
        return StandIn(read(self.recorded), self.stretch, self.full_size)


class Place(BaseModel):
    """Where a replica works. Without `waits` it computes."""

    amqp_url: str
    store: Path
    work_dir: Path
    waits: Waits | None = None


async def serve(place: Place) -> None:
    """Until SIGTERM."""
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    settings = WorkerSettings(work_dir=place.work_dir, stop_poll_s=2.0, threads=1, grace_s=5)
    broker = RabbitBroker(place.amqp_url, "mvs@replica")
    worker = StageWorker(
        TARGET, "mvs", broker, DirectoryStore(place.store), settings, place.waits.stand_in() if place.waits is not None else None
    )
    await broker.connect()
    await worker.start()
    print(READY, flush=True)
    await leaving.wait()
    await worker.stop()
    await broker.close()


if __name__ == "__main__":
    logger.remove()  # a line for every part
    asyncio.run(serve(Place.model_validate_json(sys.argv[1])))
