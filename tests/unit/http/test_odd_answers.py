"""Whatever a server answers, a download and a call end in one of their own ways: nothing else reaches who asked."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.errors import UnsafeAddress
from shared.http.addresses import AddressPolicy
from shared.http.errors import TimedOut, TooLarge, Unreachable
from shared.http.fetching import FetchLimits, download_timeout, fetch
from shared.http.guarded import guarded_client
from shared.http.posting import GuardedPoster
from tests.security.fuzzing.changes import TEXTS

pytestmark = pytest.mark.filterwarnings("ignore:http.cookiejar bug")
LOCAL = AddressPolicy.parse(["127.0.0.1/32"])
ONCE = FetchLimits(max_bytes=1000, total_s=5.0, read_s=0.5, tries=1)


def heads(name: bytes, *values: bytes) -> list[bytes]:
    return [name + b": " + value for value in values]


LOCATIONS = [text.encode("utf-8", "surrogatepass") for text in TEXTS if not {"\0", "\r", "\x1b"} & set(text)]
HEADERS = [
    *heads(b"content-length", b"-1", b"1e9", b"9" * 5000, b"9" * 20, b"5, 5", b"5, 6", "٣".encode(), b"", b"+1", b"0x1"),
    *heads(b"transfer-encoding", b"chunked, chunked", b"gzip", b"\xff", b""),
    *heads(b"set-cookie", b"\xff=\xfe; Expires=Mon, 99 Foo 0000", b"a=b; Max-Age=" + b"9" * 400, b'a="; Path='),
    *heads(b"retry-after", b"9" * 5000, b"Mon, 01 Jan 0001 00:00:00 +2359", b"\xff", b"-1"),
    *heads(b"content-encoding", b"gzip", b"br", b"zstd", b"deflate, gzip", b"\xff"),
    *heads(b"content-type", b"text/html; charset=\xff", b"text/html; charset=utf-7", b"x" * 5000),
    *heads(b"location", *LOCATIONS),
]
BODIES = (b"zz\r\n", b"-1\r\n", b"f" * 30 + b"\r\n", b"1\r\nab", b"0\r\n\xff\r\n\r\n")
STATUSES = (b"101 Switching", b"100 Continue", b"099 Odd", b"600 Odd", b"999", b"200 \xff\x00", b"-20 OK", b"2000")
ANSWERS = [
    *(b"HTTP/1.1 200 OK\r\nconnection: close\r\n" + header + b"\r\n\r\nabc" for header in HEADERS),
    *(b"HTTP/1.1 302 Found\r\nconnection: close\r\n" + header + b"\r\n\r\n" for header in HEADERS),
    *(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body for body in BODIES),
    *(b"HTTP/1.1 " + status + b"\r\n\r\n" for status in STATUSES),
    *(b"", b"\r\n\r\n", b"HTTP/0.9\r\n\r\n", b"HTTP/2 200\r\n\r\n", bytes(100), b"x" * 200_000, b"SSH-2.0-OpenSSH\r\n"),
    b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 50_000,
    b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000,
    b"HTTP/1.1 200 OK\r\nname\x00: value\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n folded\r\n\r\n",
]


async def only_numbers(host: str, port: int) -> Sequence[str]:
    if host != "127.0.0.1":
        raise OSError("no such name")
    return [host]


@dataclass
class OddServer:
    """Says `answer` to whatever it is asked."""

    url: str
    answer: bytes = b""


@asynccontextmanager
async def odd_server() -> AsyncIterator[OddServer]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(odd.answer)
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    odd = OddServer(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/a")
    try:
        yield odd
    finally:
        listener.close()


async def test_every_odd_answer_ends_a_download_as_what_it_is(tmp_path: Path) -> None:
    """A file, or UnsafeAddress, Unreachable, TimedOut or TooLarge."""
    async with odd_server() as server, guarded_client(LOCAL, download_timeout(ONCE), only_numbers) as http:
        for server.answer in ANSWERS:
            try:
                await fetch(http, server.url, tmp_path / "file", LOCAL, ONCE)
            except (UnsafeAddress, Unreachable, TimedOut, TooLarge) as error:
                assert str(error), server.answer[:200]
            except Exception as error:
                pytest.fail(f"{server.answer[:200]!r}: {error!r}")


async def test_every_odd_answer_ends_a_call_as_what_it_is() -> None:
    """A status, or UnsafeAddress, Unreachable or TimedOut."""
    poster = GuardedPoster(LOCAL, timeout_s=0.5, resolver=only_numbers)
    async with odd_server() as server:
        for server.answer in ANSWERS:
            try:
                assert (await poster.post(server.url, b"{}", {})).status_code >= 100
            except (UnsafeAddress, Unreachable, TimedOut) as error:
                assert str(error), server.answer[:200]
            except Exception as error:
                pytest.fail(f"{server.answer[:200]!r}: {error!r}")
    await poster.close()
