"""The guarded client: whatever names resolve to, no connection goes to a private address."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import httpcore
import httpx
import pytest

from shared.errors import UnsafeAddress
from shared.http.addresses import PUBLIC_ONLY, AddressPolicy
from shared.http.errors import TimedOut, Unreachable
from shared.http.guarded import GuardedBackend, Resolver, TypedStream, guarded_client, reasons, resolve
from tests.support.tls import FAULTS, Fault, breaking_server, make_certificate, server_tls
from tests.unit.http.server import Reply, local_server

LOCAL = AddressPolicy.parse(["127.0.0.1/32"])


class ScriptedDns:
    """Answers one after the other, the last one for ever, and remembers the questions."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.questions: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.questions.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def client(policy: AddressPolicy, resolver: Resolver = resolve) -> httpx.AsyncClient:
    return guarded_client(policy, httpx.Timeout(2.0), resolver)


async def get(url: str, policy: AddressPolicy, resolver: Resolver = resolve) -> httpx.Response:
    async with client(policy, resolver) as http:
        with reasons():
            return await http.get(url)


async def test_a_name_is_resolved_once_and_the_checked_address_is_dialled() -> None:
    """A name server that changes its answer after the check changes nothing: nobody asks it again."""
    dns = ScriptedDns(["127.0.0.1"], ["127.0.0.2"])
    async with local_server(lambda _: Reply(body=b"photo")) as server:
        answer = await get(server.url(host="photos.example"), LOCAL, dns)

        assert answer.content == b"photo"
        assert dns.questions == ["photos.example"]
        assert server.requests[0].headers["host"] == f"photos.example:{server.port}"


async def test_rebinding_to_a_private_address_reaches_nothing() -> None:
    """The second look-up answers a private address, and the second connection is refused."""
    dns = ScriptedDns(["127.0.0.1"], ["127.0.0.2"])
    async with local_server(lambda _: Reply(), "127.0.0.2") as forbidden, local_server(lambda _: Reply()) as allowed:
        await get(allowed.url(host="rebind.example"), LOCAL, dns)
        with pytest.raises(UnsafeAddress):
            await get(forbidden.url(host="rebind.example"), LOCAL, dns)

        assert forbidden.requests == []


@pytest.mark.parametrize(
    "answers",
    [
        ["10.0.0.1"],
        ["8.8.8.8", "127.0.0.2"],
        ["127.0.0.1", "10.0.0.1"],
        ["::1"],
        ["::ffff:10.0.0.1"],
        ["64:ff9b::7f00:2"],
        ["2002:7f00:2::"],
        ["fe80::1%eth0"],
        ["169.254.169.254"],
        ["0.0.0.0"],
        ["fd00:ec2::254"],
    ],
    ids=" ".join,
)
async def test_one_private_address_among_the_answers_is_enough(answers: list[str]) -> None:
    """Every address is checked, not only the one that would be dialled."""
    with pytest.raises(UnsafeAddress) as caught:
        await get("http://mixed.example/", LOCAL, ScriptedDns(answers))
    assert not any(answer in str(caught.value) for answer in answers)  # what names resolve to inside is nobody's business


async def test_spellings_that_only_the_c_library_reads_are_caught_at_the_dial() -> None:
    """Without any check before, the system's resolver turns them into addresses, and those are checked."""
    for host in ["localhost", "127.1", "0x7f000001", "2130706433", "127.0.0.2"]:
        with pytest.raises((UnsafeAddress, Unreachable)):
            await get(f"http://{host}:1/", PUBLIC_ONLY)


async def test_a_name_in_the_allow_list_may_resolve_anywhere() -> None:
    """The operator's word for `minio` opens what it resolves to, and no other name that resolves there."""
    policy = AddressPolicy.parse(["minio"])
    dns = ScriptedDns(["127.0.0.1"])
    async with local_server(lambda _: Reply(body=b"ok")) as server:
        assert (await get(server.url(host="MINIO"), policy, dns)).content == b"ok"
        with pytest.raises(UnsafeAddress):
            await get(server.url(host="other"), policy, dns)


async def test_an_address_that_does_not_answer_is_followed_by_the_next() -> None:
    """All checked addresses are tried in order."""
    policy = AddressPolicy.parse(["127.0.0.0/8"])
    async with local_server(lambda _: Reply(body=b"second")) as server:
        answer = await get(server.url(host="two.example"), policy, ScriptedDns(["127.0.0.2", "127.0.0.1"]))
    assert answer.content == b"second"


async def test_redirects_proxies_and_cookies_are_not_followed_used_or_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client does what it is told and nothing by itself."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.2:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.2:1")
    script = {"/a": Reply(302, headers={"location": "/b", "set-cookie": "a=1; Path=/"})}
    async with local_server(lambda request: script.get(request.path, Reply())) as server, client(LOCAL) as http:
        first = await http.get(server.url("/a"))
        await http.get(server.url("/c"))

        assert first.status_code == 302
        assert server.paths() == ["/a", "/c"]
        assert "cookie" not in server.requests[1].headers


async def test_failures_are_typed() -> None:
    """No name, no server, no answer: each is told as what it is, and whether trying again may help."""

    async def no_such_name(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    with pytest.raises(Unreachable) as caught:
        await get("http://nowhere.example/", LOCAL, no_such_name)
    assert caught.value.may_pass
    with pytest.raises(Unreachable):
        await get("http://empty.example/", LOCAL, ScriptedDns([]))
    with pytest.raises(Unreachable):
        await get("http://127.0.0.1:1/", LOCAL)
    with pytest.raises(Unreachable):
        await get("ftp://example.org/", LOCAL)
    async with local_server(lambda _: Reply(delay_s=30)) as server, guarded_client(LOCAL, httpx.Timeout(0.3)) as http:
        with pytest.raises(TimedOut), reasons():
            await http.get(server.url())


async def test_there_are_no_unix_sockets() -> None:
    """The daemon of a container engine is not a web server."""
    with pytest.raises(UnsafeAddress):
        await GuardedBackend(LOCAL).connect_unix_socket("/var/run/docker.sock")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """For photos.example."""
    return make_certificate(tmp_path, "DNS:photos.example")


async def test_tls_is_checked_against_the_name_and_not_the_address(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dialling an address keeps the URL's name for SNI and for the certificate; a certificate of nobody is refused."""
    tls = server_tls(certificate)
    names: list[str] = []
    tls.sni_callback = lambda _socket, name, _context: names.append(name)
    async with local_server(lambda _: Reply(body=b"secret"), tls=tls) as server:
        url = server.url(host="photos.example").replace("http:", "https:")
        with pytest.raises(Unreachable):
            await get(url, LOCAL, ScriptedDns(["127.0.0.1"]))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        answer = await get(url, LOCAL, ScriptedDns(["127.0.0.1"]))
        with pytest.raises(Unreachable):
            await get(url.replace("photos", "other"), LOCAL, ScriptedDns(["127.0.0.1"]))

        assert answer.content == b"secret"
        assert names == ["photos.example", "photos.example", "other.example"]


@pytest.mark.parametrize("fault", FAULTS)
async def test_tls_that_breaks_after_its_handshake_is_a_server_that_cannot_be_reached(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """One that wants to see a certificate says so after the handshake; one that sends no TLS at all does so whenever it likes."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with breaking_server(certificate, fault) as port, pytest.raises(Unreachable, match="the connection broke") as caught:
        await get(f"https://photos.example:{port}/", LOCAL, ScriptedDns(["127.0.0.1"]))
    assert caught.value.may_pass


class RawStream(httpcore.AsyncNetworkStream):
    """Fails as layers below httpcore do, with what it has no name for."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure

    async def read(self, *_: Any) -> bytes:
        raise self.failure

    async def write(self, *_: Any) -> None:
        raise self.failure

    async def start_tls(self, *_: Any) -> httpcore.AsyncNetworkStream:
        raise self.failure


RAW = [ssl.SSLError(1, "bad record"), anyio.EndOfStream(), OSError("reset"), ValueError("odd name"), RuntimeError("closing")]


@pytest.mark.parametrize("raw", RAW, ids=repr)
async def test_whatever_a_connection_raises_has_a_name(raw: Exception) -> None:
    """What httpcore knows, which names the layer below; and what it knew before stays what it was."""
    with pytest.raises(httpcore.ReadError):
        await TypedStream(RawStream(raw)).read(1)
    with pytest.raises(httpcore.WriteError):
        await TypedStream(RawStream(raw)).write(b"x")
    with pytest.raises(httpcore.ConnectError):
        await TypedStream(RawStream(raw)).start_tls(ssl.create_default_context())
    with pytest.raises(httpcore.ReadTimeout):
        await TypedStream(RawStream(httpcore.ReadTimeout())).read(1)


async def test_names_that_never_resolve_keep_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller's name server may take its time with as many names as calls are under way."""
    real, answered = socket.getaddrinfo, threading.Event()

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        if host != "127.0.0.1":
            answered.wait(20)
        return real("127.0.0.1", *rest, **more)

    monkeypatch.setattr("shared.http.guarded.socket.getaddrinfo", look_up)
    hung = [asyncio.ensure_future(resolve(f"{index}.dead.example", 80)) for index in range(64)]
    try:
        async with asyncio.timeout(10):
            assert await resolve("127.0.0.1", 80) == ["127.0.0.1"]
    finally:
        answered.set()
        await asyncio.gather(*hung)
