"""Downloads: every hop checked, bytes and time bounded, passing trouble tried again."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from shared.errors import UnsafeAddress
from shared.http.addresses import AddressPolicy
from shared.http.errors import NoRoomLeft, TimedOut, TooLarge, Unreachable
from shared.http.fetching import Fetched, FetchLimits, SharedRoom, download_timeout, fetch
from shared.http.guarded import guarded_client
from tests.unit.http.server import Reply, Request, local_server

LOCAL = AddressPolicy.parse(["127.0.0.1/32"])
QUICK = FetchLimits(max_bytes=1000, total_s=5.0, connect_s=1.0, read_s=1.0, pause_s=0.01)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with guarded_client(LOCAL, download_timeout(QUICK)) as client:
        yield client


async def download(http: httpx.AsyncClient, url: str, path: Path, limits: FetchLimits = QUICK) -> Fetched:
    return await fetch(http, url, path, LOCAL, limits)


def files_in(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.iterdir()]


async def test_a_photo_is_downloaded(http: httpx.AsyncClient, tmp_path: Path) -> None:
    """Path, size, sha256, the claimed type and where it came from in the end."""
    script = {"/start": Reply(302, headers={"location": "photos/a.jpg?x=1"})}
    async with local_server(lambda r: script.get(r.path, Reply(body=b"JPEG", headers={"content-type": "image/jpeg"}))) as server:
        fetched = await download(http, server.url("/start"), tmp_path / "a")

        sha256 = hashlib.sha256(b"JPEG").hexdigest()
        assert fetched == Fetched(tmp_path / "a", 4, sha256, "image/jpeg", server.url("/photos/a.jpg?x=1"))
        assert (tmp_path / "a").read_bytes() == b"JPEG"
        assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_a_private_address_is_never_followed(http: httpx.AsyncClient, tmp_path: Path, status: int) -> None:
    """Each hop is checked like the first."""
    async with local_server(lambda _: Reply(), "127.0.0.2") as secret:
        async with local_server(lambda _: Reply(status, headers={"location": secret.url("/latest/meta-data", host="127.0.0.2")})) as server:
            with pytest.raises(UnsafeAddress):
                await download(http, server.url(), tmp_path / "a")
        assert secret.requests == []


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://u:p@127.0.0.1/", "//[::1", "http://127.0.0.09/"])
async def test_a_redirect_to_what_is_no_url_of_ours_ends_there(http: httpx.AsyncClient, tmp_path: Path, location: str) -> None:
    """It is the server's mistake: unreachable, and not tried again."""
    async with local_server(lambda _: Reply(302, headers={"location": location})) as server:
        with pytest.raises((Unreachable, UnsafeAddress)):
            await download(http, server.url(), tmp_path / "a")
        assert len(server.requests) == 1


async def test_redirects_end_after_five(http: httpx.AsyncClient, tmp_path: Path) -> None:
    """A loop is no way to keep a worker busy."""
    async with local_server(lambda _: Reply(302, headers={"location": "/again"})) as server:
        with pytest.raises(Unreachable, match="redirects"):
            await download(http, server.url(), tmp_path / "a")
        assert len(server.requests) == 6


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"x" * 1001),
        Reply(pieces=[b"x" * 400] * 3, headers={"content-length": ""}),
        Reply(body=b"x", announce=10**15),
        Reply(body=b"x", headers={"content-length": "9" * 40}),
    ],
    ids=["announced", "not announced", "announced a petabyte", "absurd"],
)
async def test_more_bytes_than_allowed_are_not_taken(http: httpx.AsyncClient, tmp_path: Path, reply: Reply) -> None:
    """Announced or not, nothing above the limit is kept, and it is not tried again."""
    async with local_server(lambda _: reply) as server:
        with pytest.raises((TooLarge, Unreachable)):
            await download(http, server.url(), tmp_path / "a", FetchLimits(max_bytes=1000, tries=1))
        assert len(server.requests) == 1
    assert files_in(tmp_path) == []


async def test_exactly_the_limit_is_taken(http: httpx.AsyncClient, tmp_path: Path) -> None:
    """The limit itself is allowed."""
    async with local_server(lambda _: Reply(body=b"x" * 1000)) as server:
        assert (await download(http, server.url(), tmp_path / "a")).bytes == 1000


async def test_the_first_bytes_may_allow_more(http: httpx.AsyncClient, tmp_path: Path) -> None:
    """More bytes and more time for what begins as that does which may have them; the rest keeps the limits of all."""
    limits = FetchLimits(max_bytes=100_000, total_s=1.5, read_s=1.0)
    script = {"/slow": Reply(pieces=[b"PK" + bytes(70_000), *[b"x"] * 5], pause_s=0.5), "/large": Reply(body=b"PK" + bytes(150_000))}
    async with local_server(lambda r: script[r.path]) as server:

        async def get(path: str, begins: bytes) -> int:
            of = replace(limits, max_bytes=200_000, total_s=30.0)
            fetched = await fetch(
                http, server.url(path), tmp_path / "a", LOCAL, limits, lambda head: of if head.startswith(begins) else limits
            )
            return fetched.bytes

        assert (await get("/slow", b"PK"), await get("/large", b"PK")) == (70_007, 150_002)
        with pytest.raises(TimedOut):
            await get("/slow", b"other")
        with pytest.raises(TooLarge):
            await get("/large", b"other")


async def test_downloads_share_the_room_that_they_are_given(http: httpx.AsyncClient, tmp_path: Path) -> None:
    """What is kept takes of it; what is not, too large, cut off or left, gives back what it took."""
    script = {"/whole": Reply(body=b"x" * 400), "/cut": Reply(body=b"x" * 500, cut=True), "/more": Reply(pieces=[b"x" * 400] * 2)}
    room = SharedRoom(1000)
    async with local_server(lambda r: script[r.path]) as server:

        async def get(path: str) -> None:
            await fetch(http, server.url(path), tmp_path / path[1:], LOCAL, QUICK, room=room)

        await get("/whole")
        with pytest.raises(Unreachable):
            await get("/cut")
        with pytest.raises(NoRoomLeft):
            await get("/more")
        assert (room.bytes, len(server.requests)) == (600, 5)  # no room is not asked for again
        await get("/whole")
        with pytest.raises(NoRoomLeft):
            await get("/whole")
        assert room.bytes == 200
    assert files_in(tmp_path) == [b"x" * 400]


async def test_a_compressed_answer_is_refused(http: httpx.AsyncClient, tmp_path: Path) -> None:
    """Nobody asked for one, and a few bytes may unpack to anything."""
    async with local_server(lambda _: Reply(body=b"\x1f\x8b", headers={"content-encoding": "gzip"})) as server:
        with pytest.raises(Unreachable):
            await download(http, server.url(), tmp_path / "a")


class Flaky:
    """The replies one after the other."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)

    def __call__(self, request: Request) -> Reply:
        return self.replies.pop(0)


@pytest.mark.parametrize("first", [Reply(500), Reply(503), Reply(429), Reply(pieces=[b"x" * 50, b"y"], cut=True)], ids=str)
async def test_passing_trouble_is_tried_again(http: httpx.AsyncClient, tmp_path: Path, first: Reply) -> None:
    """5xx, 429 and a connection that breaks off: the next answer counts, and nothing of the first is left."""
    async with local_server(Flaky(first, first, Reply(body=b"good"))) as server:
        assert (await download(http, server.url(), tmp_path / "a")).bytes == 4
    assert files_in(tmp_path) == [b"good"]


@pytest.mark.parametrize("status", [204, 304, 400, 401, 403, 404, 410])
async def test_a_clear_no_is_not_asked_again(http: httpx.AsyncClient, tmp_path: Path, status: int) -> None:
    """Only 200 is a photo; what the server refuses once it refuses always."""
    async with local_server(lambda _: Reply(status)) as server:
        with pytest.raises(Unreachable) as caught:
            await download(http, server.url(), tmp_path / "a")
        assert caught.value.status_code == status
        assert len(server.requests) == 1


async def test_trouble_that_does_not_pass_is_told(http: httpx.AsyncClient, tmp_path: Path) -> None:
    """After three tries it is over."""
    async with local_server(lambda _: Reply(502)) as server:
        with pytest.raises(Unreachable, match="502"):
            await download(http, server.url(), tmp_path / "a")
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    "reply", [Reply(delay_s=30), Reply(pieces=[b"x"] * 500, pause_s=0.1)], ids=["never answers", "a byte now and then"]
)
async def test_a_slow_server_is_left(http: httpx.AsyncClient, tmp_path: Path, reply: Reply) -> None:
    """Neither silence nor a drip of bytes holds a worker longer than the limits say."""
    limits = FetchLimits(max_bytes=1000, total_s=1.5, read_s=1.0)
    began = asyncio.get_running_loop().time()
    async with local_server(lambda _: reply) as server:
        with pytest.raises(TimedOut):
            await download(http, server.url(), tmp_path / "a", limits)
    assert asyncio.get_running_loop().time() - began < 3
    assert files_in(tmp_path) == []


async def test_a_private_literal_is_not_even_dialled(http: httpx.AsyncClient, tmp_path: Path) -> None:
    """The first URL is checked like every other."""
    for url in ["http://127.0.0.2/", "http://0x7f.0.0.2/", "http://[::1]/", "http://169.254.169.254/latest/meta-data"]:
        with pytest.raises(UnsafeAddress):
            await download(http, url, tmp_path / "a")
    with pytest.raises(Unreachable):
        await download(http, "no url", tmp_path / "a")


async def test_a_full_disk_is_no_fault_of_the_server(http: httpx.AsyncClient, tmp_path: Path) -> None:
    """What the own disk refuses stays an OSError."""
    async with local_server(lambda _: Reply(body=b"x")) as server:
        with pytest.raises(OSError):
            await download(http, server.url(), tmp_path / "missing folder" / "a")
