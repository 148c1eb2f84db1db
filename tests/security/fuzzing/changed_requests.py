"""Nearly valid requests, given to the application itself: no socket and no server in between."""

import asyncio
import json
import time
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import unquote

from gateway.problems import MEDIA_TYPE, PROBLEMS
from tests.security.conftest import OTHER
from tests.security.fuzzing.attacked import NEW_JOBS_AFTER, SECRET_OF_OTHER, Attacked, attacked_gateway
from tests.security.fuzzing.recorded import Asked, changed, recorded
from tests.security.fuzzing.tally import Tally
from tests.support.servers import fresh_database

LEAVES_AFTER_S = 0.05  # of a stream of live events, which would go on for as long as its job


class Answer:
    """What came back."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    async def take(self, message: Any) -> None:
        """The application's `send`."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")


async def try_changed(seed: int, count: int, folder: Path, database_url: str | None = None) -> Tally:
    """So many requests to a gateway of its own, on SQLite unless another database is given."""
    random, tally, kind = Random(seed), Tally(), "postgresql" if database_url else "changed"
    async with attacked_gateway(folder, database_url) as attacked:
        for number in range(count):
            if number % NEW_JOBS_AFTER == NEW_JOBS_AFTER - 1:
                await attacked.refresh()
            asked = changed(random, recorded(random, attacked.known), attacked.known)
            await _try(asked, random, attacked, tally, kind)
        for error in attacked.errors:
            tally.fault(f"the log has an error ({kind}, seed {seed}): {error}")
    return tally


async def try_on_postgresql(seed: int, count: int, folder: Path, server_url: str) -> Tally:
    """The same to a gateway with a database on a real PostgreSQL, whose driver and server refuse what SQLite takes."""
    async with fresh_database(server_url) as url:
        return await try_changed(seed, count, folder, url)


async def _try(asked: Asked, random: Random, attacked: Attacked, tally: Tally, kind: str) -> None:
    answer, started, scope = Answer(), time.perf_counter(), _scope_of(asked)
    try:
        async with asyncio.timeout(60):
            await attacked.gateway.app(scope, _receive(asked, random), answer.take)
    except Exception as error:
        tally.fault(f"{error!r} was raised by {asked}"[:4000])
    operation = (asked.method, getattr(scope.get("route"), "path", "unmatched"))
    tally.note(f"{kind} " + (" ".join(operation) if operation in attacked.documented else "others"), str(answer.status))
    tally.took(time.perf_counter() - started, f"{asked}"[:300])
    for fault in _faults_of(answer, asked, attacked.documented.get(operation)):
        tally.fault(f"{fault}: {answer.body[:500]!r} to {asked}"[:4000])


def _scope_of(asked: Asked) -> dict[str, Any]:
    target = asked.target()
    path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": unquote(path.decode("ascii", "replace")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in asked.headers],
        "server": ("gateway", 80),
        "client": ("192.0.2.1", 1),
        "state": {},
    }


def _receive(asked: Asked, random: Random) -> Any:
    """The body in one to four chunks; now and then the client leaves in the middle."""
    cuts = sorted(random.randrange(len(asked.body) + 1) for _ in range(random.choice((0, 0, 1, 3))))
    chunks = [asked.body[start:end] for start, end in zip([0, *cuts], [*cuts, len(asked.body)], strict=True)]
    leaves = random.random() < 0.02
    waiting = chunks[: len(chunks) // 2] if leaves else chunks

    async def receive() -> dict[str, Any]:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting) or leaves}
        if not leaves:
            await asyncio.sleep(LEAVES_AFTER_S)
        return {"type": "http.disconnect"}

    return receive


def _faults_of(answer: Answer, asked: Asked, documented: set[str] | None) -> list[str]:
    """What is wrong with an answer; nothing with most."""
    faults = []
    if not 200 <= answer.status < 500:
        faults.append(f"status {answer.status}")
    if documented is not None and str(answer.status) not in documented:
        faults.append(f"status {answer.status}, which the document does not have")
    if answer.status >= 400 and asked.method != "HEAD" and not _is_problem(answer):
        faults.append(f"status {answer.status} without a problem document")
    if b"Traceback" in answer.body or (SECRET_OF_OTHER.encode() in answer.body and OTHER not in dict(asked.headers).values()):
        faults.append("tells what it should not")
    return faults


def _is_problem(answer: Answer) -> bool:
    try:
        told = json.loads(answer.body)
    except ValueError:
        return False
    return answer.headers.get("content-type") == MEDIA_TYPE and told["code"] in PROBLEMS and told["status"] == answer.status
