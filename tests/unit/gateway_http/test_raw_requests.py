"""What only a hand-made client sends: links of any bytes, and bodies that end in the middle."""

import asyncio
import gc
from typing import Any

import pytest

from tests.unit.gateway_http.conftest import KEY, RunningGateway
from tests.unit.gateway_http.test_jobs import new_job

LINK = "/api/v1/jobs/00000000-0000-0000-0000-000000000000/artifacts/model.glb"


async def status_of(
    gateway: RunningGateway, method: str, path: str, query: bytes = b"", *headers: tuple[bytes, bytes], body: bytes = b""
) -> int:
    """The answer's status to a request whose client leaves after `body`."""
    waiting = [{"type": "http.request", "body": body, "more_body": True}, {"type": "http.disconnect"}]
    answers: list[Any] = []

    async def receive() -> Any:
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    async def send(message: Any) -> None:
        answers.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": ""}
    scope |= {"method": method, "path": path, "raw_path": path.encode(), "query_string": query, "headers": list(headers)}
    await gateway.app(scope | {"server": ("gateway", 80), "client": ("127.0.0.1", 1)}, receive, send)
    return answers[0]["status"]


@pytest.mark.parametrize(
    "query", [b"signature=%C3%A9", b"signature=%ff", b"expires=%C2%B2&signature=x", b"%00=&signature=%00", b"x=\xc3\xbc", b"x=\xff"]
)
async def test_a_link_of_any_bytes_is_no_signed_link(gateway: RunningGateway, query: bytes) -> None:
    """401 for who has no key, whatever was put into the query; never 500."""
    assert await status_of(gateway, "GET", LINK, query) == 401


@pytest.mark.parametrize("path, content_type", [("reconstruct", b"application/json"), ("jobs", b"multipart/form-data; boundary=abc")])
async def test_who_leaves_in_the_middle_of_a_body_is_no_error_of_ours(gateway: RunningGateway, path: str, content_type: bytes) -> None:
    """Counted as the caller's mistake: nobody is woken at night by a client that hung up."""
    headers = (b"x-api-key", KEY.encode()), (b"content-type", content_type)
    assert await status_of(gateway, "POST", f"/api/v1/{path}", b"", *headers, body=b"--abc") == 422


async def test_a_query_that_is_no_text_is_asked_in_vain(gateway: RunningGateway) -> None:
    """Servers before us refuse it; where one lets it through, the answer is what it would be without."""
    key = (b"x-api-key", KEY.encode())
    assert await status_of(gateway, "TRACE", "/api/v1/jobs/x/events", b"x=\xed\xa0\x80", key) == 405
    assert await status_of(gateway, "GET", "/api/v1/jobs/x", b"x=\xff", key, (b"host", b"[")) == 404


@pytest.mark.parametrize("last_event_id", ["²", "٣", "-1", "1.0", "9" * 30, ""])
async def test_an_event_id_that_is_not_ours_is_ignored(gateway: RunningGateway, last_event_id: str) -> None:
    """Digits of other scripts too."""
    async with gateway.client(**{"X-API-Key": KEY}) as api:
        job_id = await new_job(api)
        await gateway.finish(job_id, {})
    headers = (b"x-api-key", KEY.encode()), (b"last-event-id", last_event_id.encode("latin-1", "replace"))
    assert await status_of(gateway, "GET", f"/api/v1/jobs/{job_id}/events", b"", *headers) == 200


async def test_watchers_that_leave_break_no_connection_to_the_database(gateway: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    """At whatever moment of what they read: nothing is logged, and nobody is watched for."""
    async with gateway.client(**{"X-API-Key": KEY}) as api:
        job_id = await new_job(api)
    scope: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http"}
    scope |= {
        "method": "GET",
        "path": f"/api/v1/jobs/{job_id}/events",
        "query_string": b"",
        "root_path": "",
        "server": None,
        "client": None,
    }

    async def send(_: Any) -> None: ...

    for turns in range(120):

        async def receive(turns: int = turns) -> Any:
            for _ in range(turns):
                await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        await gateway.app(scope | {"headers": [(b"x-api-key", KEY.encode())]}, receive, send)
    assert gateway.app.state.parts.feed.watched == []
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_search_for_nothing_that_nobody_waits_for_is_no_error(gateway: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    """Cut off at whatever moment of looking for a job that is not there: the search ends unseen."""
    key = (b"x-api-key", KEY.encode())
    for turns in range(60):
        asking = asyncio.ensure_future(status_of(gateway, "GET", "/api/v1/jobs/00000000-0000-0000-0000-000000000000/events", b"", key))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await asyncio.sleep(0.1)  # SQLite answers from a thread
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
