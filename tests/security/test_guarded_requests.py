"""No URL of the corpus gets a connection: not directly, not along a redirect, not through a name, for photos and for callbacks alike.

What counts is what reaches the kernel: every `connect` of this process is recorded.
"""

import ipaddress
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from shared.errors import UnsafeAddress
from shared.http.addresses import PUBLIC_ONLY, AddressPolicy, innermost
from shared.http.errors import TimedOut, Unreachable
from shared.http.fetching import FetchLimits, fetch
from shared.http.guarded import guarded_client, reasons
from shared.http.posting import GuardedPoster
from tests.security.recorder import recorded_connections
from tests.unit.http.server import LocalServer, Reply, local_server
from tests.unit.http.test_addresses import NO_URLS, PRIVATE_URLS

HOST = "photos.test"  # the one name that leads to the local server
BY_NAME = AddressPolicy.parse([HOST])
ONCE = FetchLimits(tries=1, total_s=5.0, connect_s=2.0)
REFUSALS = (UnsafeAddress, Unreachable, TimedOut)
PORTS = [
    f"http://{host}:{port}/" for host in ("127.0.0.1", "[::1]", "10.0.0.1") for port in (1, 22, 25, 80, 443, 2375, 5432, 5672, 6379, 9000)
]
SERVICES = [
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "http://169.254.169.254/metadata/instance?api-version=2021-02-01",
    "http://100.100.100.200/latest/meta-data/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://168.63.129.16/machine?comp=goalstate",
    "http://127.0.0.1:2375/containers/json",
    "http://127.0.0.1:9000/minio/admin/v3/info",
    "http://127.0.0.1:15672/api/users",
]
CORPUS = list(dict.fromkeys([*PRIVATE_URLS, *NO_URLS, *PORTS, *SERVICES]))

# What a name server may answer; every one is an address that callers may not reach.
ANSWERS = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "168.63.129.16"),
    *("192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
    *("64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "fe80::1", "fe80::1%lo", "fec0::1"),
    *("fc00::1", "fd00:ec2::254", "ff02::1", "100::1", "2001:db8::1", "3fff::1", "5f00::1"),
]


class Dns:
    """Names lead where the test says, one answer after the other, the last for ever; numbers are read as the C library does."""

    def __init__(self, **names: Sequence[Sequence[str]]) -> None:
        self.names = {name.replace("_", "."): list(answers) for name, answers in names.items()}
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        if host in self.names:
            answers = self.names[host]
            return answers.pop(0) if len(answers) > 1 else answers[0]
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [str(answer[4][0]) for answer in found]


class Caller:
    """Fetches photos as ingest does and sends webhooks as they are sent; one TLS context for all, or making it would be all the work."""

    def __init__(self, folder: Path, policy: AddressPolicy, dns: Dns) -> None:
        self.dns = dns
        self.photo = folder / "photo"
        self.client = guarded_client(policy, httpx.Timeout(2.0), self._resolve, kept_alive=0)
        self._policy = policy
        self._poster = GuardedPoster(policy, timeout_s=2.0, resolver=self._resolve)

    async def get(self, url: str, limits: FetchLimits = ONCE) -> None:
        await fetch(self.client, url, self.photo, self._policy, limits)

    async def post(self, url: str) -> int:
        return (await self._poster.post(url, b"{}", {"content-type": "application/json"})).status_code

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        return await self.dns(host, port)

    async def close(self) -> None:
        await self.client.aclose()
        await self._poster.close()


@asynccontextmanager
async def caller(folder: Path, policy: AddressPolicy = PUBLIC_ONLY, **names: Sequence[Sequence[str]]) -> AsyncIterator[Caller]:
    """`async with caller(tmp_path, policy, photos_test=[["127.0.0.1"]]) as one:`"""
    one = Caller(folder, policy, Dns(**names))
    try:
        yield one
    finally:
        await one.close()


@pytest.fixture
async def server() -> AsyncIterator[LocalServer]:
    async with local_server(lambda _: Reply(body=b"secret of the inside")) as running:
        yield running


def test_the_corpus_is_large() -> None:
    """At least 150 URLs."""
    assert len(CORPUS) >= 150


async def test_no_photo_url_of_the_corpus_gets_a_connection(tmp_path: Path) -> None:
    """Refused by the check of the URL or by that of the address, before anything is dialled."""
    async with caller(tmp_path) as one:
        with recorded_connections() as tried:
            for url in CORPUS:
                with pytest.raises(REFUSALS):
                    await one.get(url)
    assert tried == []


async def test_no_callback_url_of_the_corpus_gets_a_connection(tmp_path: Path) -> None:
    """Webhooks go through the same transport."""
    async with caller(tmp_path) as one:
        with recorded_connections() as tried:
            for url in CORPUS:
                with pytest.raises(REFUSALS):
                    await one.post(url)
    assert tried == []


async def test_the_transport_alone_lets_nothing_through(tmp_path: Path) -> None:
    """Where the client reads a URL differently from the check before it, the address that would be dialled is checked all the same."""
    async with caller(tmp_path) as one:
        with recorded_connections() as tried:
            for url in CORPUS:
                with pytest.raises(REFUSALS), reasons():
                    await one.client.get(url)
    assert tried == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_leads_to_the_corpus(server: LocalServer, tmp_path: Path, status: int) -> None:
    """Only the server that redirects is ever dialled; whatever of the corpus is read as a path leads back to it."""
    async with caller(tmp_path, BY_NAME, photos_test=[["127.0.0.1"]]) as one:
        with recorded_connections() as tried:
            for url in CORPUS if status == 302 else SERVICES:
                replies = iter([Reply(status, headers={"location": _as_header(url)})])
                server.script = lambda _, replies=replies: next(replies, Reply(404))
                with pytest.raises(REFUSALS):
                    await one.get(f"http://{HOST}:{server.port}/")
    assert set(tried) == {("127.0.0.1", server.port)}
    assert len(tried) == len(server.requests)
    assert {request.headers["host"] for request in server.requests} == {f"{HOST}:{server.port}"}


async def test_callbacks_follow_no_redirect(server: LocalServer, tmp_path: Path) -> None:
    """A redirect is an answer, wherever it leads."""
    async with caller(tmp_path, BY_NAME, photos_test=[["127.0.0.1"]]) as one:
        with recorded_connections() as tried:
            for url in CORPUS:
                server.script = lambda _, url=url: Reply(307, headers={"location": _as_header(url)})
                assert await one.post(f"http://{HOST}:{server.port}/") == 307
    assert tried == [("127.0.0.1", server.port)] * len(CORPUS)


async def test_no_name_leads_to_a_private_address(tmp_path: Path) -> None:
    """Alone, before or after a public address, for photos and for callbacks."""
    async with caller(tmp_path) as one:
        with recorded_connections() as tried:
            for answer in ANSWERS:
                for answers in ([answer], ["8.8.8.8", answer], [answer, "2606:4700::1111"]):
                    one.dns = Dns(rebind_test=[answers])
                    with pytest.raises(UnsafeAddress):
                        await one.get("http://rebind.test/")
                    with pytest.raises(UnsafeAddress):
                        await one.post("http://rebind.test/")
    assert tried == []


async def test_a_name_that_changes_its_answer_gains_nothing(tmp_path: Path) -> None:
    """Public when it is checked, private ever after: the connection goes to the checked address, and each further try is checked anew."""
    limits = FetchLimits(tries=3, pause_s=0.0, total_s=5.0)
    async with caller(tmp_path) as one:
        with recorded_connections() as tried:
            for answer in ANSWERS:
                one.dns = Dns(rebind_test=[["8.8.8.8"], [answer]])
                with pytest.raises(REFUSALS):
                    await one.get("http://rebind.test/", limits)
                assert one.dns.asked == 2  # the first try found nobody there, the second a private address
                one.dns = Dns(rebind_test=[["8.8.8.8"], [answer]])
                with pytest.raises(Unreachable):
                    await one.post("http://rebind.test/")
                assert one.dns.asked == 1
    assert tried == [("8.8.8.8", 80)] * 2 * len(ANSWERS)


async def test_a_name_that_turns_private_between_two_hops_gains_nothing(server: LocalServer, tmp_path: Path) -> None:
    """The hop after a redirect to the same name is checked like the first."""
    server.script = lambda _: Reply(302, headers={"location": f"http://turning.test:{server.port}/again"})
    async with caller(tmp_path, AddressPolicy.parse(["127.0.0.1/32"])) as one:
        for answer in ANSWERS:
            if innermost(ipaddress.ip_address(answer)) == ipaddress.ip_address("127.0.0.1"):
                continue  # the allow-list means the inner address
            one.dns = Dns(turning_test=[["127.0.0.1"], [answer]])
            with recorded_connections() as tried, pytest.raises(UnsafeAddress):
                await one.get(f"http://turning.test:{server.port}/")
            assert tried == [("127.0.0.1", server.port)]


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.0/8", "0.0.0.0/0"])
async def test_the_allow_list_opens_what_it_names(server: LocalServer, tmp_path: Path, entry: str) -> None:
    """Private callers are reached by the operator's word, for photos and callbacks, however the address is spelt."""
    spellings = ["127.0.0.1", "2130706433", "0x7f.1", "127.1", "0x7f000001"]
    async with caller(tmp_path, AddressPolicy.parse([entry])) as one:
        with recorded_connections() as tried:
            for spelt in spellings:
                await one.get(f"http://{spelt}:{server.port}/")
                assert await one.post(f"http://{spelt}:{server.port}/") == 200
    assert tried == [("127.0.0.1", server.port)] * 2 * len(spellings)
    assert one.photo.read_bytes() == b"secret of the inside"


@pytest.mark.parametrize("entries", [["127.0.0.2/32"], ["10.0.0.0/8", "photos.test", "::/0"], ["::ffff:0:0/96"], ["localhost"]])
async def test_the_allow_list_opens_nothing_else(server: LocalServer, tmp_path: Path, entries: list[str]) -> None:
    """Neighbours of what it names stay closed, and a name in it does not open the address that it leads to."""
    async with caller(tmp_path, AddressPolicy.parse(entries)) as one:
        with recorded_connections() as tried:
            for spelt in ("127.0.0.1", "2130706433", "[::ffff:127.0.0.1]"):
                with pytest.raises(UnsafeAddress):
                    await one.get(f"http://{spelt}:{server.port}/")
                with pytest.raises(UnsafeAddress):
                    await one.post(f"http://{spelt}:{server.port}/")
    assert tried == []


def _as_header(url: str) -> str:
    """As much of a URL as a header can hold."""
    return "".join(character for character in url if character.isprintable()).encode("utf-8", "replace").decode("latin-1")[:4000]
