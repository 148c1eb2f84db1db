"""schemathesis: what the OpenAPI document allows and what it does not, over HTTP, with every answer held against the document."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from tests.security.fuzzing.attacked import KEY, Attacked, attacked_gateway
from tests.security.fuzzing.tally import Tally

IN_A_ROW = 20  # of one call, then of the next
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
NO_CALL_OF_OURS = {405, 501}  # a method that the document does not have


class Served:
    """A gateway on a port and a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self.attacked: Attacked
        self._folder = folder
        self._up, self._down = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> "Served":
        self._thread.start()
        assert self._up.wait(120), "the gateway did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._down.set)
        self._thread.join(60)

    def refresh(self) -> None:
        """Fresh jobs: some calls delete them."""
        asyncio.run_coroutine_threadsafe(self.attacked.refresh(), self._loop).result(120)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with attacked_gateway(self._folder) as self.attacked:
            app = self.attacked.gateway.app
            server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="critical", ws="none"))
            serving = asyncio.ensure_future(server.serve())
            while not server.started:  # noqa: ASYNC110 - uvicorn tells it in no other way
                await asyncio.sleep(0.01)
            self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            self._up.set()
            await self._down.wait()
            server.should_exit = True
            await serving


def try_documented(first_seed: int, count: int, folder: Path) -> Tally:
    """At least so many requests, spread over every call."""
    tally, session = Tally(), requests.Session()
    session.headers["X-API-Key"] = KEY
    with Served(folder) as served:
        schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        number = 0
        while tally.total() < count and not tally.faults:
            if number % len(operations) == 0:
                served.refresh()
            _try(served, operations[number % len(operations)], session, first_seed * 100_000 + number, tally)
            number += 1
        for error in served.attacked.errors:
            tally.fault(f"the log has an error (documented, seed {first_seed}): {error}")
    return tally


def _cases_of(operation: Any) -> st.SearchStrategy[Any]:
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    return st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes))


def _try(served: Served, operation: Any, session: requests.Session, number: int, tally: Tally) -> None:
    """Some requests of one call."""
    jobs = list(served.attacked.known.jobs.values())

    @seed(number)
    @settings(max_examples=IN_A_ROW, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=_cases_of(operation), which=st.integers(0, 2 * len(jobs)))
    def send(case: Any, which: int) -> None:
        if case.path_parameters and "job_id" in case.path_parameters and which < len(jobs):
            case.path_parameters["job_id"] = jobs[which]
        answer = case.call(session=session, timeout=60)
        tally.note(f"documented {operation.label}", str(answer.status_code))
        assert answer.status_code < 500, (case.method, case.formatted_path, case.body, answer.text)
        content = answer.headers.get("content-type", [""])[0]
        no_http = answer.status_code == 400 and not content.startswith("application/problem+json")  # the server's word on a head
        if not no_http and answer.status_code not in NO_CALL_OF_OURS:
            streamed = content.startswith("text/event-stream")  # events, which are no document
            case.validate_response(answer, checks=CHECKS[:2] if streamed else CHECKS)

    try:
        send()
    except (Exception, FailureGroup) as error:  # schemathesis's own is no Exception, and would end the process
        notes = "\n".join(getattr(error, "__notes__", ()))
        tally.fault(f"documented, seed {number}: {error!r}\n{notes}"[:4000])
