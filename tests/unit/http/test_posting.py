"""One POST: the status decides, whatever the answer's body does."""

import asyncio
from pathlib import Path

import pytest

from shared.errors import UnsafeAddress
from shared.http.addresses import AddressPolicy
from shared.http.errors import TimedOut, Unreachable
from shared.http.posting import Answer, GuardedPoster
from tests.support.tls import breaking_server, make_certificate
from tests.unit.http.server import Reply, local_server

LOCAL = AddressPolicy.parse(["127.0.0.1/32"])


async def post(url: str, timeout_s: float = 5.0, body: bytes = b"{}") -> Answer:
    poster = GuardedPoster(LOCAL, timeout_s)
    try:
        return await poster.post(url, body, {"content-type": "application/json"})
    finally:
        await poster.close()


async def test_the_body_arrives_as_it_is() -> None:
    """Exactly these bytes, with exactly these headers."""
    async with local_server(lambda _: Reply(202)) as server:
        assert await post(server.url("/hook?x=1"), body=b'{"a": "\xc3\xa9"}') == Answer(202)

    (request,) = server.requests
    assert (request.method, request.path, request.body) == ("POST", "/hook?x=1", b'{"a": "\xc3\xa9"}')
    assert request.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, body=b"x" * 10_000_000),
        Reply(200, pieces=[b"x"] * 1000, pause_s=1.0),
        Reply(200, pieces=[b"x" * 10, b"y"], cut=True),
        Reply(200, body=b"\xff\x00", headers={"content-encoding": "gzip"}),
        Reply(200, headers={"content-type": "\xff\xfe"}),
    ],
    ids=["huge", "slow", "cut off", "not gzip", "odd header"],
)
async def test_a_status_that_was_said_counts(reply: Reply) -> None:
    """A receiver that took the message and then answers badly has taken the message."""
    began = asyncio.get_running_loop().time()
    async with local_server(lambda _: reply) as server:
        assert (await post(server.url())).status_code == 200
    assert asyncio.get_running_loop().time() - began < 4


async def test_a_status_that_was_said_just_in_time_counts() -> None:
    """Also where the answer's body would outlast the time of the call."""
    async with local_server(lambda _: Reply(200, delay_s=1.0, pieces=[b"x"] * 1000, pause_s=1.0)) as server:
        assert (await post(server.url(), timeout_s=2.0)).status_code == 200


async def test_a_status_counts_whatever_becomes_of_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows it need not even be TLS; without a status there is no answer."""
    certificate = make_certificate(tmp_path, "IP:127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with breaking_server(certificate, "no TLS as the body") as port:
        assert (await post(f"https://127.0.0.1:{port}/")).status_code == 200
    with breaking_server(certificate, "no TLS as the answer") as port, pytest.raises(Unreachable):
        await post(f"https://127.0.0.1:{port}/")


@pytest.mark.parametrize("location", ["/other", "http://127.0.0.2/", "//[::1", "", "http://u:p@x/"])
async def test_a_redirect_is_an_answer(location: str) -> None:
    """Wherever it leads, also nowhere, nobody goes there."""
    async with local_server(lambda _: Reply(307, headers={"location": location})) as server:
        assert (await post(server.url())).status_code == 307
        assert len(server.requests) == 1


async def test_retry_after_is_passed_on() -> None:
    """As sent; whoever schedules reads it."""
    async with local_server(lambda _: Reply(503, headers={"retry-after": "120"})) as server:
        assert await post(server.url()) == Answer(503, "120")


async def test_failures_are_typed() -> None:
    """Unsafe, late and unreachable are told apart."""
    with pytest.raises(UnsafeAddress):
        await post("http://169.254.169.254/latest")
    with pytest.raises(Unreachable):
        await post("http://127.0.0.1:1/")
    with pytest.raises(Unreachable):
        await post("no url")
    async with local_server(lambda _: Reply(delay_s=30)) as server:
        with pytest.raises(TimedOut):
            await post(server.url(), timeout_s=0.3)
