"""schemathesis against the OpenAPI document: whatever is sent, no answer of 5xx, and every answer is one that the document has.

Some hundred requests here; `make fuzz N=100000` sends as many as it is told.
"""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from loguru import logger
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from tests.unit.gateway_http.conftest import KEY, URLS, running_gateway

REQUESTS = int(os.environ.get("MESHWORK_TEST_FUZZ", "300"))
IN_A_ROW = 20
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]


class Served:
    """A gateway on a port of its own, on a thread of its own, with some jobs that have ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.jobs: list[str] = []
        self._up, self._down = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._up.wait(120), "the gateway did not start"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._down.set)
        self._thread.join(30)

    def more_jobs(self) -> None:
        """Fresh ones: some calls delete them."""
        asyncio.run_coroutine_threadsafe(self._finished_jobs(3), self._loop).result(120)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        logger.remove()
        async with running_gateway(self.folder) as self._gateway:
            server = uvicorn.Server(uvicorn.Config(self._gateway.app, port=0, lifespan="off", log_level="critical", ws="none"))
            serving = asyncio.ensure_future(server.serve())
            while not server.started:  # noqa: ASYNC110 - uvicorn tells it in no other way
                await asyncio.sleep(0.01)
            self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            self._up.set()
            await self._down.wait()
            server.should_exit = True
            await serving

    async def _finished_jobs(self, count: int) -> None:
        self.jobs = []
        async with self._gateway.client(**{"X-API-Key": KEY}) as client:
            for _ in range(count):
                answer = await client.post("/api/v1/reconstruct", json={"image_urls": URLS, "callback_url": "https://x.example/"})
                self.jobs.append(answer.json()["job_id"])
                await self._gateway.finish(self.jobs[-1], {"report.json": b"{}"})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    gateway = Served(tmp_path_factory.mktemp("fuzzed"))
    gateway.start()
    yield gateway
    gateway.stop()


def cases_of(operation: Any) -> st.SearchStrategy[Any]:
    """What the document allows, and what it does not."""
    return st.one_of(
        operation.as_strategy(generation_mode=GenerationMode.POSITIVE), operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    )


def test_no_request_is_answered_with_5xx(served: Served) -> None:
    """Every call of the document, with what it allows and with what it does not, on jobs that there are and on others."""
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    session, sent, turn = requests.Session(), 0, 0
    session.headers["X-API-Key"] = KEY
    while sent < REQUESTS:
        served.more_jobs()
        sent += sum(attack(served, operation, session, turn * len(operations) + number) for number, operation in enumerate(operations))
        turn += 1


def attack(served: Served, operation: Any, session: requests.Session, number: int) -> int:
    """Some requests of one call; how many."""
    sent = 0

    @seed(number)
    @settings(max_examples=IN_A_ROW, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=cases_of(operation), which=st.integers(0, 5))
    def send(case: Any, which: int) -> None:
        nonlocal sent
        if case.path_parameters and "job_id" in case.path_parameters and which < len(served.jobs):
            case.path_parameters["job_id"] = served.jobs[which]
        answer = case.call(session=session, timeout=60)
        sent += 1
        assert answer.status_code < 500, (case.method, case.formatted_path, case.body, answer.text)
        if answer.status_code not in {405, 501}:  # a method or path that the document does not have
            streamed = answer.headers.get("content-type", [""])[0].startswith("text/event-stream")  # events, which are no document
            case.validate_response(answer, checks=CHECKS[:2] if streamed else CHECKS)

    send()
    return sent
