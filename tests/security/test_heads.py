"""The port takes heads of bounded size, in bounded time, from whoever can reach it: no key is known before."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from gateway import heads
from tests.security.conftest import ACME, new_job
from tests.security.fuzzing.raw_requests import served
from tests.unit.gateway_http.conftest import RunningGateway

GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
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
    "start, piece", [(GET + b"X-A: ", b"a" * PIECE), (GET, b"A: b\r\n" * 10_000), (b"GET /livez?", b"a" * PIECE), (b"", b"\r\n" * PIECE)]
)
async def test_a_head_without_end_is_not_kept(port: int, start: bytes, piece: bytes) -> None:
    """One header, many headers, a path, empty lines: the server hangs up. What lies between is in the kernel's buffers."""
    assert await sent(port, start, piece, 256 << 20) < 64 << 20


async def test_a_head_that_is_too_long_is_answered_with_431(port: int) -> None:
    """Also the second one on a connection."""
    async with connected(port) as (reader, writer):
        for status, more in ((b"200", b""), (b"431", b"X-A: " + b"a" * (heads.MAX_HEAD_BYTES + 1))):
            writer.write(GET + more + (b"\r\n" if not more else b""))
            assert (await reader.readuntil(b"\r\n\r\n")).split()[1] == status
            if not more:
                await reader.readuntil(b"}")


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
