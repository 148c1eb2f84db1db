"""A gateway on SQLite (or the database that it is given), a folder and the broker in memory, asked over HTTP."""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.app import Adapters, create_app
from gateway.database import jobs
from gateway.database.engine import create_engine
from gateway.endings import Ending, end_job
from gateway.settings import GatewaySettings
from shared.broker.memory import MemoryBroker
from shared.contracts.artifacts import ARTIFACTS
from shared.storage import keys
from shared.storage.directory import DirectoryStore
from shared.storage.minio import MinioStore

KEY = "the-key"
URLS = [f"http://photos.example.org/set/{index}.jpg" for index in range(3)]


def settings_for_tests(**changes: object) -> GatewaySettings:
    """Small limits, so that going past them is cheap."""
    values = {
        "api_key": KEY,
        "link_secret": "link-secret",
        "allowed_private_networks": "127.0.0.1/32",
        "max_images": 6,
        "max_image_bytes": 64 << 10,
        "max_archive_bytes": 200_000,
        "max_upload_bytes": 512 << 10,
        "max_body_bytes": 256 << 10,
        "seal_key": "Y2hhbmdlLW1lLWNoYW5nZS1tZS1jaGFuZ2UtbWUtISE=",
    }
    return GatewaySettings(_env_file=None, **(values | changes))


class RunningGateway:
    """The application inside its lifespan, and its adapters."""

    def __init__(
        self, folder: Path, settings: GatewaySettings, database_url: str | None = None, store: DirectoryStore | MinioStore | None = None
    ) -> None:
        self.database = create_engine(database_url or f"sqlite+aiosqlite:///{folder}/meshwork.db")
        self.store = store or DirectoryStore(folder / "artifacts")
        self.broker = MemoryBroker()
        self.settings = settings
        self.app = create_app(settings, Adapters(self.database, self.broker, self.store, prepare_store=self.store.prepare))

    def client(self, **headers: str) -> httpx.AsyncClient:
        """A client that asks the application directly; give `X-API-Key` yourself."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers)

    async def finish(self, job_id: str, files: dict[str, bytes]) -> None:
        """Ends a job as the tracker does when its last step is completed; its artifacts lie in the store."""
        artifacts = []
        for name, data in files.items():
            key = keys.attempt_file(job_id, 5, "export", "attempt", name)
            await self.store.put(key, data)
            sha256 = hashlib.sha256(data).hexdigest()
            artifacts.append({"name": name, "format": ARTIFACTS[name][0], "bytes": len(data), "sha256": sha256, "key": key})
        async with self.database.write() as rows:
            job = await jobs.lock_job(rows, job_id)
            assert job is not None
            ending = Ending("completed", artifacts=artifacts, report={"verdict": "pass"})
            assert await end_job(rows, job, await jobs.steps_of(rows, job_id), ending, self.app.state.parts.links)

    async def move(self, job_id: str, stage: str, progress: float, message: str) -> None:
        """A visible change, as the tracker makes it."""
        async with self.database.write() as rows:
            job = await jobs.lock_job(rows, job_id)
            assert job is not None
            job.status, job.stage, job.progress, job.message, job.version = "processing", stage, progress, message, job.version + 1


@contextlib.asynccontextmanager
async def running_gateway(
    folder: Path, database_url: str | None = None, store: DirectoryStore | MinioStore | None = None, **changes: object
) -> AsyncIterator[RunningGateway]:
    """A gateway that has started."""
    running = RunningGateway(folder, settings_for_tests(**changes), database_url, store)
    async with running.app.router.lifespan_context(running.app):
        yield running
    await running.database.close()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path) as running:
        yield running


@pytest.fixture
async def api(gateway: RunningGateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client(**{"X-API-Key": KEY}) as client:
        yield client


@pytest.fixture
async def anonymous(gateway: RunningGateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client() as client:
        yield client


def assert_problem(response: httpx.Response, status: int, code: str) -> dict:
    """RFC 9457 with our code; nothing of the inside shows."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert {"type", "title", "status", "detail", "instance", "code", "hint", "retryable"} <= problem.keys()
    assert (problem["status"], problem["code"]) == (status, code)
    assert "Traceback" not in response.text
    if status == 422:
        assert problem["errors"]
        assert all({"loc", "msg", "type"} == error.keys() for error in problem["errors"])
    return problem
