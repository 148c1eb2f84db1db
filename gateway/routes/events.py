"""Live events: server-sent events, and the same on a WebSocket."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Annotated, Any

from anyio import CancelScope
from fastapi import APIRouter, Header, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.auth import SUBPROTOCOL_PREFIX, Tenant, caller_of_headers, caller_of_subprotocols, forbidden, unauthenticated
from gateway.database.records import LiveState
from gateway.documents import job_document
from gateway.live import FeedClosed, LiveEvent, LoadJob, Snapshot, story
from gateway.parts import Parts, PartsOf
from gateway.problems import Problem, responses
from gateway.routes.jobs import find_job
from gateway.tenants import Caller

router = APIRouter(tags=["live events"])

KEEP_ALIVE_S = 15.0  # also how long a revoked key keeps open what tells nothing
PIECE_BYTES = 64 << 10
NORMAL_CLOSURE, POLICY_VIOLATION, SERVICE_RESTART = 1000, 1008, 1012
Opens = Callable[[], bool]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", description="Of the last event seen: what came before is not repeated.")]
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "init, progress …, then complete or error.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
    204: {"description": "The job has ended and Last-Event-ID names its last event: there is nothing more to come."},
}


@router.get(
    "/api/v1/jobs/{job_id}/events",
    response_model=None,
    responses={**_STREAM, **responses("NOT_FOUND", "TOO_MANY_STREAMS")},
    summary="Events of a job, as they happen",
)
async def events(job_id: str, request: Request, tenant: Tenant, parts: PartsOf, last_event_id: LastEventId = None) -> Response:
    """`init` with the job, `progress` …, last `complete` or `error`; then the stream ends. A key that is revoked ends it too."""
    last_seen = _version_in(last_event_id or "")
    load = _loader(parts, tenant, job_id)
    now = await load()
    if last_seen is not None and now.has_ended and now.state.version <= last_seen:
        return Response(status_code=204)  # tells an EventSource to stop reconnecting
    opens = _still_opens(tenant, lambda: caller_of_headers(parts.tenants, request.headers))
    stream = _server_sent(story(parts.feed, now, load, last_seen), opens)
    return _Stream(stream, parts.streams.opened(tenant, len(now.document)))


class _Stream(StreamingResponse):
    """Answers with events for as long as it has its place, or with the Problem that there is none."""

    def __init__(self, content: AsyncIterator[bytes], place: contextlib.AbstractContextManager[None]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A client that leaves before the first event has its place back, too."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(self._place)
            except Problem as problem:
                await problem.send_to(scope, receive, send)
                return
            await super().__call__(scope, receive, send)


@router.websocket("/ws/jobs/{job_id}")
async def socket(websocket: WebSocket, job_id: str, parts: PartsOf) -> None:
    """The same events as messages. The key comes in a header, or from a browser as the subprotocol `meshwork.key.<KEY>`."""
    offered = websocket.scope.get("subprotocols", [])

    def caller_now() -> Caller | None:
        return caller_of_headers(parts.tenants, websocket.headers) or caller_of_subprotocols(parts.tenants, offered)

    with contextlib.ExitStack() as held:
        try:
            tenant = _reader(caller_now(), parts)
            load = _loader(parts, tenant, job_id)
            now = await load()
            held.enter_context(parts.streams.opened(tenant, len(now.document)))
        except Problem as problem:
            await _refuse(websocket, problem)
            return
        events = story(parts.feed, now, load)
        del now
        # A browser fails unless one of those that it offered is chosen.
        chosen = next((protocol for protocol in offered if not protocol.startswith(SUBPROTOCOL_PREFIX)), next(iter(offered), None))
        await websocket.accept(subprotocol=chosen)
        with contextlib.suppress(WebSocketDisconnect):
            try:
                await _tell_until_gone(websocket, events, _still_opens(tenant, caller_now))
            except FeedClosed:
                await websocket.close(SERVICE_RESTART)


def _reader(caller: Caller | None, parts: Parts) -> str:
    """The tenant, whose request this is. Raises Problem for who may not look, or asks too often."""
    if caller is None:
        raise unauthenticated()
    if not caller.may("read"):
        raise forbidden("read")
    parts.rates.count(caller.tenant)
    return caller.tenant


def _still_opens(tenant: str, caller_now: Callable[[], Caller | None]) -> Opens:
    """Whether the key with which something was opened would open it now."""

    def opens() -> bool:
        caller = caller_now()
        return caller is not None and caller.tenant == tenant and caller.may("read")

    return opens


def _version_in(last_event_id: str) -> int | None:
    """The version that we gave as an event's id; None for anything else, `²` too, which is a digit but no number."""
    ours = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 19
    return int(last_event_id) if ours else None


def _loader(parts: Parts, tenant: str, job_id: str) -> LoadJob:
    async def snapshot() -> Snapshot:
        record = await find_job(parts, tenant, job_id)
        job, document = record.job, job_document(record, parts.links)
        state = LiveState(job.id, job.version, job.status, job.stage, document["progress"], job.message)
        return Snapshot(state, job.error, json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())

    async def load() -> Snapshot:
        finding = asyncio.ensure_future(snapshot())
        finding.add_done_callback(_heard)
        return await asyncio.shield(finding)  # who leaves meanwhile breaks no connection to the database

    return load


def _heard(finding: asyncio.Future[Any]) -> None:
    """Where nobody waits for it any more, nobody else asks how it ended."""
    if not finding.cancelled():
        finding.exception()


async def _server_sent(events: AsyncGenerator[LiveEvent, None], opens: Opens) -> AsyncIterator[bytes]:
    """Events as lines, with a comment now and then, so that proxies keep the connection and a client that left is noticed.

    Ends when the key opens nothing any more: nothing is told to it.
    """
    waiting: asyncio.Task[LiveEvent | None] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(_next(events))
            await asyncio.wait({waiting}, timeout=KEEP_ALIVE_S)
            if not opens():
                return
            if not waiting.done():
                yield b": still here\n\n"
                continue
            event, waiting = waiting.result(), None
            if event is None:
                return
            lines = b"id: %d\ndata: %b\n\n" % (event.version, event.text)
            del event  # a document of megabytes is held once, and not until the next event
            for start in range(0, len(lines), PIECE_BYTES):  # whoever sends a piece keeps it until the next
                yield lines[start : start + PIECE_BYTES]
            del lines
    except FeedClosed:
        return  # the caller reconnects, and Last-Event-ID says where it was
    finally:
        with CancelScope(shield=True):  # a client that left is told so at every await: rows would never be given back in order
            await _end(waiting)
            await events.aclose()


async def _tell_until_gone(websocket: WebSocket, events: AsyncGenerator[LiveEvent, None], opens: Opens) -> None:
    """Sends events; ends with 1000 after the last, with 1008 when the key opens nothing any more, or when the other side leaves."""
    telling = asyncio.ensure_future(_tell(websocket, events, opens))
    leaving = asyncio.ensure_future(_wait_for_leave(websocket))
    try:
        done: set[asyncio.Future[Any]] = set()
        while not done and opens():
            done, _ = await asyncio.wait({telling, leaving}, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
        code, left = telling.result() if telling.done() else POLICY_VIOLATION, leaving.done()
    finally:
        await _end(telling)
        await _end(leaving)
        await events.aclose()
    if not left:
        await websocket.close(code)


async def _tell(websocket: WebSocket, events: AsyncGenerator[LiveEvent, None], opens: Opens) -> int:
    """The code to close with."""
    async for event in events:
        if not opens():
            return POLICY_VIOLATION
        await websocket.send_text(event.text.decode())
        del event  # nothing of a document of megabytes is held until the next one
    return NORMAL_CLOSURE


async def _wait_for_leave(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass  # nothing that a watcher says matters


async def _refuse(websocket: WebSocket, problem: Problem) -> None:
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(problem.response(websocket.url.path))
    else:
        await websocket.close(POLICY_VIOLATION)


async def _next(events: AsyncGenerator[LiveEvent, None]) -> LiveEvent | None:
    return await anext(events, None)


async def _end(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
