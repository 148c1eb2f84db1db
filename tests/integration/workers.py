"""Worker processes of fake stages on a real broker and a real store, as an operator runs them; tests are the gateway's side."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from deploy.native.process import free_port
from shared.broker.rabbitmq import RabbitBroker
from shared.contracts.events import EVENT, StageCompleted
from shared.contracts.manifest import Manifest
from shared.contracts.messages import StageMessage
from shared.contracts.routing import TRACKER_QUEUE
from shared.ports import Delivery
from shared.storage import keys
from shared.storage.minio import MinioStore
from tests.support.builders import a_message, a_publication, a_slip, store_request
from tests.support.eventually import eventually
from tests.support.servers import S3Server

STAGES = {"ingest": "fake_stage:FakeStage", "segmentation": "fake_stage:FakeSegmentation", "sfm": "fake_stage:FakeSfm"}


class WorkerProcess:
    """One worker as an operator runs it."""

    def __init__(self, stage: str, environment: dict[str, str]) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "tests.support.fake_worker", STAGES.get(stage, stage)]
        self.process = subprocess.Popen(command, env={**os.environ, **environment, "MESHWORK_HEALTH_PORT": str(self.port)})

    def ask(self, path: str) -> httpx.Response | None:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=2)
        except httpx.HTTPError:
            return None

    async def ready(self) -> None:
        await eventually(lambda: (answer := self.ask("/readyz")) is not None and answer.status_code == 200, 30, 0.1)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class WorkerMesh:
    """The gateway's side: publishes, and collects what is told."""

    def __init__(self, environment: dict[str, str], broker: RabbitBroker, store: MinioStore) -> None:
        self.environment = environment
        self.broker = broker
        self.store = store
        self.told: list[Any] = []
        self.dead_letters: list[Delivery] = []
        self.workers: list[WorkerProcess] = []

    async def collect(self, delivery: Delivery) -> None:
        if delivery.exchange == "events":
            self.told.append(EVENT.validate_python(json.loads(delivery.body)))
        else:
            self.dead_letters.append(delivery)
        await delivery.ack()

    def worker(self, stage: str, **settings: str) -> WorkerProcess:
        worker = WorkerProcess(stage, self.environment | settings)
        self.workers.append(worker)
        return worker

    async def submit(self, message: StageMessage) -> None:
        await store_request(self.store, message.job_id)
        await self.broker.publish(a_publication(message))

    def completed(self, job_id: str) -> list[StageCompleted]:
        return [event for event in self.told if isinstance(event, StageCompleted) and event.job_id == job_id]

    async def step_files(self, message: StageMessage) -> list[str]:
        return list(await self.store.list(keys.step_prefix(message.job_id, message.position, message.step.name)))

    async def step_manifest(self, message: StageMessage) -> Manifest:
        """What the step was committed with."""
        return Manifest.model_validate_json(await self.store.get(keys.step_manifest(message.job_id, message.position, message.step.name)))

    def end_workers(self) -> None:
        """All of them, at once."""
        for worker in self.workers:
            worker.kill()
        self.workers.clear()


@asynccontextmanager
async def worker_mesh(amqp_url: str, s3_server: S3Server, bucket: str, work_dir: Path) -> AsyncIterator[WorkerMesh]:
    """Connected, with no worker yet."""
    environment = {
        "MESHWORK_AMQP_URL": amqp_url,
        "MESHWORK_S3_ENDPOINT": s3_server.endpoint,
        "MESHWORK_S3_ACCESS_KEY": s3_server.access_key,
        "MESHWORK_S3_SECRET_KEY": s3_server.secret_key,
        "MESHWORK_S3_BUCKET": bucket,
        "MESHWORK_WORK_DIR": str(work_dir),
        "MESHWORK_THREADS": "1",
        "MESHWORK_GRACE_S": "10",
    }
    broker = RabbitBroker(amqp_url, "test")
    store = MinioStore(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, bucket)
    await asyncio.gather(broker.connect(), store.prepare())
    mesh = WorkerMesh(environment, broker, store)
    try:
        await broker.subscribe(TRACKER_QUEUE, mesh.collect, prefetch=100)
        yield mesh
    finally:
        mesh.end_workers()
        await broker.close()
        await store.close()


def ingesting(diary: Path, **params: Any) -> StageMessage:
    """A job whose first step writes a diary: a line for every run."""
    return a_message(a_slip(params={"ingest": {"diary": str(diary), **params}}))


def pids_in(diary: Path) -> list[int]:
    """Who computed, run by run."""
    return [int(line.split()[0]) for line in diary.read_text().splitlines()] if diary.exists() else []
