"""What only a hand-made client sends: links of any bytes, and bodies that end in the middle."""

from typing import Any

import pytest

from tests.unit.gateway_http.conftest import KEY, RunningGateway

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


@pytest.mark.parametrize("query", [b"signature=%C3%A9", b"signature=%ff", b"expires=%C2%B2&signature=x", b"%00=&signature=%00"])
async def test_a_link_of_any_bytes_is_no_signed_link(gateway: RunningGateway, query: bytes) -> None:
    """401 for who has no key, whatever was put into the query; never 500."""
    assert await status_of(gateway, "GET", LINK, query) == 401


@pytest.mark.parametrize("path, content_type", [("reconstruct", b"application/json"), ("jobs", b"multipart/form-data; boundary=abc")])
async def test_who_leaves_in_the_middle_of_a_body_is_no_error_of_ours(gateway: RunningGateway, path: str, content_type: bytes) -> None:
    """Counted as the caller's mistake: nobody is woken at night by a client that hung up."""
    headers = (b"x-api-key", KEY.encode()), (b"content-type", content_type)
    assert await status_of(gateway, "POST", f"/api/v1/{path}", b"", *headers, body=b"--abc") == 422
