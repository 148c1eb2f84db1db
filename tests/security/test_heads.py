"""The port takes heads of bounded size, in bounded time, from whoever can reach it: no key is known before."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from gateway import door_json, heads
from tests.security.conftest import ACME, new_job
from tests.security.fuzzing.raw_requests import served
from tests.unit.gateway_http.conftest import RunningGateway

GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
TRAILERS = GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
NO_KEY = b"POST /api/v1/reconstruct HTTP/1.1\r\nHost: x\r\n"
PIECE = 1 << 16


@pytest.fixture
async def port(gateway: RunningGateway) -> AsyncIterator[int]:
    async with served(gateway) as port:
        yield port


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection; everything on it has 20 seconds."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def sent(port: int, start: bytes, piece: bytes, most_bytes: int) -> int:
    """Bytes of a head without end that were sent when the server hung up; at most `most_bytes`."""
    total = 0
    async with connected(port) as (_, writer):
        with contextlib.suppress(OSError):
            writer.write(start)
            while total < most_bytes:
                writer.write(piece)
                await writer.drain()
                total += len(piece)
    return total


@pytest.mark.parametrize(
    "start, piece",
    [
        (GET + b"X-A: ", b"a" * PIECE),
        (GET, b"A: b\r\n" * 10_000),
        (b"GET /livez?", b"a" * PIECE),
        (b"", b"\r\n" * PIECE),
        (TRAILERS + b"X-A: ", b"a" * PIECE),
        (TRAILERS, b"A: b\r\n" * 10_000),
    ],
)
async def test_a_head_without_end_is_not_kept(port: int, start: bytes, piece: bytes) -> None:
    """One header, many headers, a path, empty lines, headers behind a body: the server hangs up. The rest is in the kernel's buffers."""
    assert await sent(port, start, piece, 256 << 20) < 64 << 20


async def test_a_head_that_is_too_long_is_answered_with_431(port: int) -> None:
    """Also the second one on a connection."""
    async with connected(port) as (reader, writer):
        for status, more in ((b"200", b""), (b"431", b"X-A: " + b"a" * (heads.MAX_HEAD_BYTES + 1))):
            writer.write(GET + more + (b"\r\n" if not more else b""))
            assert (await reader.readuntil(b"\r\n\r\n")).split()[1] == status
            if not more:
                await reader.readuntil(b"}")


async def test_too_many_headers_are_answered_with_431(port: int) -> None:
    """However short they are: the request is not made."""
    for count, status in ((heads.MAX_HEADERS, b"200"), (heads.MAX_HEADERS + 1, b"431"), (10_000, b"431")):
        async with connected(port) as (reader, writer):
            writer.write(GET + b"A:b\r\n" * (count - 1) + b"\r\n")
            assert (await reader.readuntil(b"\r\n")).split()[1] == status


async def test_trailers_change_nothing(port: int) -> None:
    """A few of them are passed over, and the next request is answered."""
    async with connected(port) as (reader, writer):
        for _ in range(2):
            writer.write(TRAILERS + b"X-API-Key: a\r\nHost: b\r\n\r\n")
            assert b"200" in await reader.readuntil(b"}")


async def test_who_sends_thousands_of_requests_ahead_is_hung_up_on(port: int) -> None:
    """Each would take kilobytes until its turn comes. A few are answered in order."""
    async with connected(port) as (reader, writer):
        writer.write((GET + b"\r\n") * heads.MAX_AHEAD)
        for _ in range(heads.MAX_AHEAD):
            assert b"200" in await reader.readuntil(b"}")
        writer.write((GET + b"\r\n") * 2_000)
        with contextlib.suppress(OSError):
            assert (await reader.read(-1)).count(b"HTTP/1.1") <= heads.MAX_AHEAD + 1


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n100000\r\n"])
async def test_who_is_refused_keeps_no_connection_with_a_body_that_trickles(
    port: int, framing: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads that body: the connection ends soon after the answer."""
    monkeypatch.setattr(heads, "HEAD_PATIENCE", timedelta(seconds=0.4))
    async with connected(port) as (reader, writer):
        writer.write(NO_KEY + framing)
        assert b"401" in await reader.readuntil(b"}")
        with contextlib.suppress(OSError):
            while await _heard(reader) != b"":
                writer.write(b"X")
                await writer.drain()


async def test_a_refused_body_that_comes_after_all_leaves_the_connection_usable(port: int) -> None:
    """As clients expect that send first and read then."""
    async with connected(port) as (reader, writer):
        writer.write(NO_KEY + b"Content-Length: 4\r\n\r\n")
        assert b"401" in await reader.readuntil(b"}")
        writer.write(b"{  }" + GET + b"\r\n")
        assert b"200" in await reader.readuntil(b"}")


@pytest.mark.parametrize("path, content_type", [("reconstruct", "application/json"), ("jobs", "multipart/form-data; boundary=x")])
async def test_a_body_that_trickles_is_given_up(
    gateway: RunningGateway, port: int, path: str, content_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then is no pause, but the whole has its time: a key keeps no connection for ever either."""
    monkeypatch.setattr(door_json, "JSON_PATIENCE", timedelta(seconds=0.4))
    monkeypatch.setattr(gateway.settings, "upload_lifetime", timedelta(seconds=0.4))
    head = f"POST /api/v1/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\nContent-Type: {content_type}\r\n"
    async with connected(port) as (reader, writer):
        writer.write(f"{head}X-API-Key: {ACME['admin']}\r\n\r\n".encode())
        while (heard := await _heard(reader)) is None:
            writer.write(b"-")
            await writer.drain()
        assert b" 422 " in heard


@pytest.mark.parametrize("start", [b"", b"GET", GET, GET + b"\r\n"])
async def test_a_head_that_does_not_come_is_not_waited_for(port: int, start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many bytes trickle in: nothing at all, half a line, half a head, one request and then half of another."""
    monkeypatch.setattr(heads, "HEAD_PATIENCE", timedelta(seconds=0.4))
    async with connected(port) as (reader, writer):
        writer.write(start)
        if start.endswith(b"\r\n\r\n"):
            await reader.readuntil(b"}")
        with contextlib.suppress(OSError):  # or the end of the stream
            while await _heard(reader) != b"":
                writer.write(b"X")
                await writer.drain()


async def _heard(reader: asyncio.StreamReader) -> bytes | None:
    """What came within a tenth of a second; None where nothing did, b"" at the end."""
    try:
        async with asyncio.timeout(0.1):
            return await reader.read(100)
    except TimeoutError:
        return None


async def test_a_long_answer_and_a_slow_body_are_waited_for(gateway: RunningGateway, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are those of heads alone."""
    monkeypatch.setattr(heads, "HEAD_PATIENCE", timedelta(seconds=0.2))
    async with gateway.client(**{"X-API-Key": ACME["admin"]}) as client:
        job_id = await new_job(client)
    key = f"X-API-Key: {ACME['admin']}\r\n".encode()
    async with connected(port) as (reader, writer):
        writer.write(f"GET /api/v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\n".encode() + key + b"\r\n")
        assert b"200" in await reader.readuntil(b"\r\n")
        await reader.readuntil(b"init")
        await asyncio.sleep(0.6)
        await gateway.move(job_id, "sfm", 40.0, "matching")
        await reader.readuntil(b"matching")
    async with connected(port) as (reader, writer):
        writer.write(b"POST /api/v1/reconstruct HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n" + key + b"\r\n{")
        await asyncio.sleep(0.6)
        writer.write(b"}")
        assert b"422" in await reader.readuntil(b"\r\n")
