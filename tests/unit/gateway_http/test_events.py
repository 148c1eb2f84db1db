"""Live events over a real server: what sockets and streams tell, and to whom."""

import asyncio
import contextlib
import gc
import json
import os
import signal
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.requests import ClientDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway import heads
from gateway.database.records import LiveState
from gateway.live import LiveEvent, LiveFeed, Snapshot, story
from gateway.problems import Problem
from gateway.routes.events import _server_sent, _tell
from gateway.server import server_of
from gateway.streams import PLACE_BYTES, Streams
from tests.support.eventually import eventually
from tests.unit.gateway_http.conftest import KEY, RunningGateway, assert_problem, running_gateway
from tests.unit.gateway_http.test_jobs import new_job

HEADERS = {"X-API-Key": KEY}


class Served:
    """A gateway behind a real port."""

    def __init__(self, gateway: RunningGateway, server: uvicorn.Server) -> None:
        self.gateway = gateway
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self.api = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=HEADERS, timeout=20)

    def socket_url(self, job_id: str) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/jobs/{job_id}"


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with running_gateway(tmp_path_factory.mktemp("served"), port=0, grace_s=1) as gateway:
        server = server_of(gateway.app, gateway.settings)
        server.config.lifespan = "off"
        running = asyncio.create_task(server.serve())
        await eventually(lambda: server.started)
        served = Served(gateway, server)
        yield served
        await served.api.aclose()
        server.should_exit = True
        await running


async def socket_story(served: Served, job_id: str, told: list[dict], **options: object) -> int | None:
    """Everything that a socket tells, and the code that it closes with."""
    options = {"additional_headers": HEADERS} | options
    async with connect(served.socket_url(job_id), **options) as socket:
        async for message in socket:
            told.append(json.loads(message))
    return socket.close_code


async def stream_story(served: Served, job_id: str, told: list[tuple[str, dict]] | None = None, **headers: str) -> list[tuple[str, dict]]:
    """Everything that a stream tells, with ids; in `told` as it comes."""
    async with served.api.stream("GET", f"/api/v1/jobs/{job_id}/events", headers=headers) as stream:
        assert stream.headers["content-type"].split(";")[0] == "text/event-stream"
        events, version = [] if told is None else told, ""
        async for line in stream.aiter_lines():
            version = line.removeprefix("id: ") if line.startswith("id: ") else version
            if line.startswith("data:"):
                events.append((version, json.loads(line.removeprefix("data:"))))
    return events


async def test_a_socket_tells_the_story_and_closes(served: Served) -> None:
    """init, progress that never falls, complete, 1000."""
    job_id, told = await new_job(served.api), []
    watching = asyncio.create_task(socket_story(served, job_id, told))
    await eventually(lambda: told)
    for progress in (10.0, 20.0):
        await served.gateway.move(job_id, "sfm", progress, "matching")
        await eventually(lambda: told[-1].get("progress") == progress)  # noqa: B023
    await served.gateway.finish(job_id, {"model.glb": b"glTF"})
    assert await watching == 1000
    assert [event["type"] for event in told] == ["init", "progress", "progress", "complete"]
    assert told[0]["job"]["job_id"] == job_id and told[0]["job"]["status"] == "queued"
    assert told[1] == {"type": "progress", "stage": "sfm", "progress": 10.0, "message": "matching"}
    assert told[-1]["job"]["artifacts"][0]["name"] == "model.glb"


async def test_a_stream_tells_the_same(served: Served) -> None:
    """With the row's version as id."""
    job_id, told = await new_job(served.api), []
    watching = asyncio.create_task(stream_story(served, job_id, told))
    await eventually(lambda: told)
    await served.gateway.move(job_id, "mvs", 50.0, "depth maps")
    await eventually(lambda: len(told) == 2)
    assert (await served.api.post(f"/api/v1/jobs/{job_id}/cancel")).status_code == 202
    events = await watching
    assert [event["type"] for _, event in events] == ["init", "progress", "error"]
    assert events[-1][1]["status"] == "cancelled" and events[-1][1]["error"] is None
    versions = [int(version) for version, _ in events]
    assert versions == sorted(set(versions))


async def test_who_comes_late_gets_the_job_and_its_end(served: Served) -> None:
    """And who saw the end already is told to stay away."""
    job_id = await new_job(served.api)
    await served.gateway.finish(job_id, {"report.json": b"{}"})
    events = await stream_story(served, job_id)
    assert [event["type"] for _, event in events] == ["init", "complete"]
    told: list[dict] = []
    assert await socket_story(served, job_id, told) == 1000
    assert [event["type"] for event in told] == ["init", "complete"]
    again = await served.api.get(f"/api/v1/jobs/{job_id}/events", headers={"Last-Event-ID": events[-1][0]})
    assert (again.status_code, again.content) == (204, b"")


async def test_a_reconnect_goes_on_where_it_was(served: Served) -> None:
    """What came before Last-Event-ID is not repeated."""
    job_id = await new_job(served.api)
    await served.gateway.move(job_id, "sfm", 5.0, "a")
    await served.gateway.finish(job_id, {"report.json": b"{}"})
    assert [event["type"] for _, event in await stream_story(served, job_id, **{"Last-Event-ID": "1"})] == ["complete"]
    assert [event["type"] for _, event in await stream_story(served, job_id, **{"Last-Event-ID": "nonsense"})] == ["init", "complete"]


async def test_a_job_that_is_deleted_says_so(served: Served) -> None:
    """The story has an end all the same."""
    job_id, told = await new_job(served.api), []
    watching = asyncio.create_task(socket_story(served, job_id, told))
    await eventually(lambda: told)
    await served.api.delete(f"/api/v1/jobs/{job_id}")
    assert await watching == 1000
    assert (told[-1]["type"], told[-1]["status"]) == ("error", "deleted")


async def test_many_watchers_ask_the_database_once_a_second(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One query for all jobs, whatever the number of watchers."""
    feed, asked = served.gateway.app.state.parts.feed, []
    states_since = feed._states_since

    async def counted(seen: dict) -> dict:
        asked.append(len(seen))
        return await states_since(seen)

    monkeypatch.setattr(feed, "_states_since", counted)
    ids = [await new_job(served.api) for _ in range(3)]
    told: list[dict] = []
    watching = [asyncio.create_task(socket_story(served, job_id, told)) for job_id in ids * 4]
    await eventually(lambda: len(told) == 12 and len(asked) >= 3, 10)
    assert max(asked) == 3
    for job_id in ids:
        await served.api.post(f"/api/v1/jobs/{job_id}/cancel")
    assert set(await asyncio.gather(*watching)) == {1000}
    await eventually(lambda: not feed._watches)


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}])
async def test_a_stranger_hears_nothing(served: Served, headers: dict, caplog: pytest.LogCaptureFixture) -> None:
    """Refused before the handshake, with a problem; whoever tries keys fills no log with errors."""
    job_id = await new_job(served.api)
    with pytest.raises(InvalidStatus) as refused:
        await socket_story(served, job_id, [], additional_headers=headers)
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["code"] == "UNAUTHENTICATED"
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_socket_for_no_job_is_refused(served: Served) -> None:
    """404, as everywhere."""
    with pytest.raises(InvalidStatus) as refused:
        await socket_story(served, "00000000-0000-0000-0000-000000000000", [])
    assert refused.value.response.status_code == 404


async def test_sockets_are_counted_as_requests(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 before the handshake, with the seconds to wait."""
    job_id = await new_job(served.api)
    monkeypatch.setattr(served.gateway.app.state.parts.rates, "_limit_of", lambda tenant: 2)
    for _ in range(2):
        async with connect(served.socket_url(job_id), additional_headers=HEADERS):
            pass
    with pytest.raises(InvalidStatus) as refused:
        await socket_story(served, job_id, [])
    assert refused.value.response.status_code == 429
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 30


async def refused_code(served: Served, job_id: str) -> tuple[int, str, str]:
    """(status, code, Retry-After) of a socket that is not opened."""
    with pytest.raises(InvalidStatus) as refused:
        await socket_story(served, job_id, [])
    answer = refused.value.response
    return answer.status_code, json.loads(answer.body)["code"], answer.headers["retry-after"]


async def test_a_tenant_has_so_many_streams_and_no_more(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets and streams alike: 429 with Retry-After for one too many, and room again when one is left."""
    streams = served.gateway.app.state.parts.streams
    monkeypatch.setattr(streams, "_limit_of", lambda tenant: 2)
    job_id = await new_job(served.api)
    async with connect(served.socket_url(job_id), additional_headers=HEADERS) as socket:
        watching = asyncio.create_task(stream_story(served, job_id))
        await eventually(lambda: streams._taken["default"] == 2)
        answer = await served.api.get(f"/api/v1/jobs/{job_id}/events")
        assert (answer.headers["retry-after"], assert_problem(answer, 429, "TOO_MANY_STREAMS")["retryable"]) == ("5", True)
        assert await refused_code(served, job_id) == (429, "TOO_MANY_STREAMS", "5")
        assert (await served.api.get(f"/api/v1/jobs/{job_id}")).status_code == 200
        await socket.close()
        await eventually(lambda: streams._taken["default"] == 1)
        await served.api.post(f"/api/v1/jobs/{job_id}/cancel")
        assert [event["type"] for _, event in await watching] == ["init", "error"]
    await eventually(lambda: streams._taken["default"] == 0)


def test_a_stream_of_megabytes_takes_more_places() -> None:
    """A tenant without any has one in any case; another's are its own."""
    streams = Streams(lambda tenant: 4)
    with streams.opened("first", 10 * PLACE_BYTES), streams.opened("other", 0), pytest.raises(Problem), streams.opened("first", 0):
        pass
    with streams.opened("first", 2 * PLACE_BYTES), streams.opened("first", 0):
        with pytest.raises(Problem), streams.opened("first", 0):
            pass
        with streams.opened("second", 3 * PLACE_BYTES):
            pass
    with Streams(lambda tenant: 0).opened("first", 0):
        pass
    assert streams._taken.total() == 0


async def test_who_leaves_before_the_first_event_has_the_place_back(served: Served) -> None:
    parts, job_id = served.gateway.app.state.parts, await new_job(served.api)
    headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    path = f"/api/v1/jobs/{job_id}/events"
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}

    async def receive() -> dict:
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        raise OSError("the connection is gone")

    with contextlib.suppress(OSError, ClientDisconnect):
        await served.gateway.app(scope | {"http_version": "1.1", "scheme": "http", "root_path": "", "server": None}, receive, send)
    assert parts.streams._taken.total() == 0 and job_id not in parts.feed.watched


LARGE = 16 << 20


@pytest.mark.parametrize("kind", ["stream", "socket"])
async def test_a_stream_keeps_nothing_of_a_document_that_was_told(kind: str) -> None:
    """It waits for hours with a few hundred bytes, whatever the job's links take."""
    feed, told = LiveFeed(lambda seen: asyncio.sleep(3600)), []  # type: ignore[arg-type, return-value]

    class Socket:
        async def send_text(self, text: str) -> None:
            told.append(len(text))

    async def load() -> Snapshot:
        raise AssertionError("nothing has ended")

    def begun() -> AsyncGenerator[LiveEvent, None]:
        state = LiveState("job", 1, "processing", "mvs", 10.0, "")
        return story(feed, Snapshot(state, None, b'"' + b"x" * LARGE + b'"'), load)

    async def watch() -> None:
        if kind == "socket":
            await _tell(Socket(), begun(), lambda: True)  # type: ignore[arg-type]
        async for lines in _server_sent(begun(), lambda: True):  # a response keeps the latest until there are more
            told.append(len(lines))

    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        watching = asyncio.create_task(watch())
        await eventually(lambda: sum(told) > LARGE)
        await asyncio.sleep(0.05)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await feed.close()
    assert after - before < LARGE / 8


@pytest.mark.parametrize(
    "protocols, chosen", [([f"meshwork.key.{KEY}"], f"meshwork.key.{KEY}"), (["meshwork", f"meshwork.key.{KEY}"], "meshwork")]
)
async def test_a_browser_sends_the_key_as_a_subprotocol(served: Served, protocols: list[str], chosen: str) -> None:
    """One of those offered is chosen, as browsers demand; another one than the key where there is one."""
    job_id = await new_job(served.api)
    async with connect(served.socket_url(job_id), subprotocols=protocols) as socket:
        assert json.loads(await socket.recv())["type"] == "init"
        assert socket.subprotocol == chosen


async def test_a_watcher_that_leaves_is_forgotten(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is polled for nobody; what a watcher says is ignored."""
    monkeypatch.setattr("gateway.routes.events.KEEP_ALIVE_S", 0.2)
    job_id = await new_job(served.api)
    async with connect(served.socket_url(job_id), additional_headers=HEADERS) as socket:
        await socket.recv()
        await socket.send("hello")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await served.api.get(f"/api/v1/jobs/{job_id}/events")
    await eventually(lambda: job_id not in {watch.job_id for watch in served.gateway.app.state.parts.feed._watches}, 20)


async def test_a_gateway_that_ends_ends_its_stories(tmp_path: Path) -> None:
    """At once, not with the jobs: who watches comes back, a socket is told so (1012). The signal is not raised again."""
    signals: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    try:
        async with running_gateway(tmp_path, port=0, grace_s=20) as gateway:
            server = server_of(gateway.app, gateway.settings)
            server.config.lifespan = "off"
            running = asyncio.create_task(server.serve())
            await eventually(lambda: server.started)
            served = Served(gateway, server)
            job_id, told = await new_job(served.api), []
            stories = asyncio.gather(socket_story(served, job_id, told), stream_story(served, job_id), return_exceptions=True)
            await eventually(lambda: told and len(gateway.app.state.parts.feed.watched) == 2)
            os.kill(os.getpid(), signal.SIGTERM)
            closed, events = await asyncio.wait_for(stories, 10)
            await asyncio.wait_for(running, 10)
            await served.api.aclose()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (closed.rcvd.code, [event["type"] for _, event in events], signals) == (1012, ["init"], [])


async def test_what_is_there_at_the_start_is_kept_from_the_garbage_collector(served: Served) -> None:
    assert gc.get_freeze_count() > 10_000


async def test_a_socket_stays_open_for_longer_than_a_request_may_take_to_arrive(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "HEAD_PATIENCE", timedelta(seconds=0.2))
    job_id = await new_job(served.api)
    async with connect(served.socket_url(job_id), additional_headers=HEADERS) as socket:
        await socket.recv()
        await asyncio.sleep(0.6)
        await (await socket.ping())
