"""The gateway under attack: jobs in every state, of two tenants, and an ear for what it logs as an error."""

import contextlib
import json
import logging
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
from loguru import logger

from tests.security.conftest import ACME, OTHER, two_tenants
from tests.unit.gateway_http.conftest import URLS, RunningGateway, running_gateway

KEY = ACME["admin"]
SECRET_OF_OTHER = "only-the-other-tenant-knows"
FILES = {"model.glb": b"glTF", "report.json": b"{}"}
NEW_JOBS_AFTER = 400  # requests: by then many are deleted, cancelled or retried


@dataclass
class Known:
    """What a caller knows: ids of jobs by state, webhooks, signed links, cursors."""

    jobs: dict[str, str] = field(default_factory=dict)
    deliveries: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    cursor: str = ""
    options: dict[str, dict[str, Any]] = field(default_factory=dict)  # stage -> its options' JSON Schema properties

    def some_job(self, random: Random) -> str:
        """The id of a job, usually one that has ended."""
        return self.jobs[random.choice(("completed", "completed", "completed", *self.jobs))]


class Attacked:
    """A running gateway and what its callers know."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.known = Known()
        self.errors: list[str] = []
        self.documented = _documented(gateway)

    async def refresh(self) -> None:
        """Fresh jobs: some calls delete them."""
        async with self.gateway.client(**{"X-API-Key": KEY}) as mine, self.gateway.client(**{"X-API-Key": OTHER}) as other:
            jobs = {name: await _new(mine) for name in ("queued", "processing", "completed", "cancelled")}
            jobs["uploaded"] = await _uploaded(mine)
            jobs["others"] = await _new(other)
            for name in ("completed", "uploaded", "others"):
                await self.gateway.finish(jobs[name], FILES)
            await self.gateway.move(jobs["processing"], "sfm", 40.0, "matching")
            await mine.post(f"/api/v1/jobs/{jobs['cancelled']}/cancel")
            self.known = Known(jobs | {"nobodys": "00000000-0000-4000-8000-000000000000"})
            told = (await mine.get(f"/api/v1/jobs/{jobs['completed']}/webhooks")).json()
            self.known.deliveries = [delivery["id"] for delivery in told["deliveries"]]
            artifacts = (await mine.get(f"/api/v1/jobs/{jobs['completed']}/artifacts")).json()["artifacts"]
            self.known.links = [artifact["url"].partition(":8000")[2] for artifact in artifacts]
            self.known.cursor = (await mine.get("/api/v1/jobs?limit=1")).json()["next_cursor"]
            stages = (await mine.get("/api/v1/capabilities")).json()["stages"]
            self.known.options = {name: stage["params"]["properties"] for name, stage in stages.items()}

    def hear(self, message: Any) -> None:
        """A sink for our log."""
        record = message.record
        self._note(record["message"], record["exception"].value if record["exception"] else None)

    def hear_library(self, record: logging.LogRecord) -> None:
        """The same for what libraries log."""
        self._note(record.getMessage(), record.exc_info[1] if record.exc_info else None)

    def _note(self, message: str, error: BaseException | None) -> None:
        self.errors.append("".join([message, "\n", *(traceback.format_exception(error)[-6:] if error else [])])[:3000])


class _Libraries(logging.Handler):
    def __init__(self, attacked: Attacked) -> None:
        super().__init__(logging.ERROR)
        self._attacked = attacked

    def emit(self, record: logging.LogRecord) -> None:
        """Passes it on."""
        self._attacked.hear_library(record)


async def _new(client: httpx.AsyncClient) -> str:
    body = {"image_urls": URLS, "callback_url": "https://x.example/", "metadata": {"mark": SECRET_OF_OTHER}}
    if client.headers["X-API-Key"] != OTHER:
        body["metadata"] = {"order": 1}
    job_id: str = (await client.post("/api/v1/reconstruct", json=body)).json()["job_id"]
    return job_id


async def _uploaded(client: httpx.AsyncClient) -> str:
    request = {"request": (None, json.dumps({"callback_url": "https://x.example/"}))}
    images = [("images", (f"{index}.jpg", b"photo %d" % index)) for index in range(3)]
    job_id: str = (await client.post("/api/v1/jobs", files=[*images, *request.items()])).json()["job_id"]
    return job_id


def _documented(gateway: RunningGateway) -> dict[tuple[str, str], set[str]]:
    """(method, route) -> every status that the OpenAPI document has for it."""
    paths = gateway.app.openapi()["paths"]
    return {(method.upper(), path): set(operation["responses"]) for path, item in paths.items() for method, operation in item.items()}


@contextlib.asynccontextmanager
async def attacked_gateway(folder: Path, database_url: str | None = None) -> AsyncIterator[Attacked]:
    """One with jobs in it, on SQLite unless another database is given."""
    async with running_gateway(folder, database_url, tenants_file=two_tenants(folder)) as gateway:
        attacked = Attacked(gateway)
        sink, libraries = logger.add(attacked.hear, level="ERROR"), _Libraries(attacked)
        logging.getLogger().addHandler(libraries)
        try:
            await attacked.refresh()
            yield attacked
        finally:
            logger.remove(sink)
            logging.getLogger().removeHandler(libraries)
