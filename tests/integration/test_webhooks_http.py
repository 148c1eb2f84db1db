"""The webhooks service against real HTTP receivers, good and bad, on 127.0.0.1."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from shared.http.addresses import AddressPolicy
from shared.http.posting import GuardedPoster
from shared.sealing import seal
from tests.support.eventually import eventually
from tests.support.tls import Fault, breaking_server, make_certificate
from tests.unit.http.server import Reply, Request, local_server
from tests.unit.webhooks.world import BODY, OLD_SECRET, SEAL_KEY, SECRET, World, hurried, message, pauses, world

LOCAL = AddressPolicy.parse(["127.0.0.1/32"])


@asynccontextmanager
async def service(folder: Path, timeout_s: float = 5.0, **settings: int) -> AsyncIterator[World]:
    async with world(folder, GuardedPoster(LOCAL, timeout_s), hurried(), **settings) as running:
        yield running


async def deliver(running: World, url: str, **changes: object) -> None:
    wanted = message(url=url, **changes)
    await running.store_body(wanted)
    await running.publish(wanted)


async def test_500_500_200_is_three_calls_with_one_id_and_valid_signatures(tmp_path: Path) -> None:
    """Each attempt carries the same bytes and id, and a signature that the standard library accepts."""
    replies = [Reply(500), Reply(500), Reply(200)]
    async with service(tmp_path) as running, local_server(lambda _: replies.pop(0)) as receiver:
        await deliver(running, receiver.url("/hook?token=1"), schedule_s=pauses("10s", "1m", "5m"))
        await eventually(lambda: len(running.events()) == 3, 10)

        assert receiver.paths() == ["/hook?token=1"] * 3
        assert {request.headers["webhook-id"] for request in receiver.requests} == {"d1"}
        for request in receiver.requests:
            assert request.body == BODY and request.headers["content-type"] == "application/json"
            assert Webhook(SECRET).verify(request.body, dict(request.headers)) == json.loads(BODY)
        assert [event["status_code"] for event in running.events()] == [500, 500, 200]


async def test_a_receiver_that_knows_only_the_old_secret_still_verifies(tmp_path: Path) -> None:
    """While secrets are rotated, every call carries both signatures."""

    def verify(request: Request) -> Reply:
        Webhook(OLD_SECRET).verify(request.body, dict(request.headers))
        return Reply(204)

    async with service(tmp_path) as running, local_server(verify) as receiver:
        await deliver(running, receiver.url(), sealed_secrets=seal([SECRET, OLD_SECRET], SEAL_KEY))
        await eventually(lambda: [event["outcome"] for event in running.events()] == ["delivered"], 10)


async def test_a_redirect_is_a_failure_and_its_target_is_never_called(tmp_path: Path) -> None:
    """Neither the private target nor an allowed one."""
    async with service(tmp_path) as running, local_server(lambda _: Reply(), "127.0.0.2") as secret:
        script = {"/a": Reply(302, headers={"location": secret.url("/", host="127.0.0.2")}), "/b": Reply(307, headers={"location": "/c"})}
        async with local_server(lambda request: script.get(request.path, Reply())) as receiver:
            await deliver(running, receiver.url("/a"), delivery_id="a", schedule_s=())
            await deliver(running, receiver.url("/b"), delivery_id="b", schedule_s=())
            await eventually(lambda: len(running.events()) == 2, 10)

            assert sorted(receiver.paths()) == ["/a", "/b"]
            assert secret.requests == []
            assert {event["outcome"] for event in running.events()} == {"parked"}
            assert all("redirects are not followed" in event["error"] for event in running.events())


async def test_a_private_callback_is_a_failed_attempt(tmp_path: Path) -> None:
    """Literal or by name: nothing is dialled, the attempt says why."""
    async with service(tmp_path) as running, local_server(lambda _: Reply(), "127.0.0.2") as secret:
        urls = [secret.url(host="127.0.0.2"), secret.url(host="0x7f.0.0.2"), "http://169.254.169.254/latest", "http://localhost:1/"]
        for index, url in enumerate(urls):
            await deliver(running, url, delivery_id=f"d{index}", schedule_s=())
        await eventually(lambda: len(running.events()) == len(urls), 10)

        assert secret.requests == []
        assert all(event["status_code"] is None and event["error"] for event in running.events())
        assert sum("private address" in event["error"] for event in running.events()) >= 3


async def test_a_receiver_that_never_answers_is_left(tmp_path: Path) -> None:
    """After the timeout the attempt failed and the schedule goes on."""
    replies = [Reply(delay_s=60), Reply(200)]
    async with service(tmp_path, timeout_s=0.5) as running, local_server(lambda _: replies.pop(0)) as receiver:
        await deliver(running, receiver.url())
        await eventually(lambda: len(running.events()) == 2, 10)
        assert [event["outcome"] for event in running.events()] == ["failed", "delivered"]
        assert "0.5 s" in running.events()[0]["error"]


async def test_what_a_receiver_sends_back_is_neither_kept_nor_waited_for(tmp_path: Path) -> None:
    """Gigabytes, drips and broken encodings after a 200 change nothing; a secret that it sends stays out of events."""
    noisy = Reply(200, pieces=[b"secret " * 10_000] * 50, headers={"content-length": ""})
    async with service(tmp_path) as running, local_server(lambda _: noisy) as receiver:
        await deliver(running, receiver.url())
        await eventually(lambda: [event["outcome"] for event in running.events()] == ["delivered"], 10)
        assert "secret " not in json.dumps(running.events())


async def test_no_more_than_four_calls_reach_one_host_at_once(tmp_path: Path) -> None:
    """Twelve deliveries, one slow receiver."""
    async with service(tmp_path) as running, local_server(lambda _: Reply(200, delay_s=0.05)) as receiver:
        for index in range(12):
            await deliver(running, receiver.url(), delivery_id=f"d{index}")
        await eventually(lambda: len(running.events()) == 12, 10)
        assert receiver.most_at_once <= 4


@pytest.mark.parametrize("fault", ["wants a certificate", "no TLS as the answer"])
async def test_a_receiver_whose_tls_breaks_off_keeps_nobody_elses_webhooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """As many deliveries to it as are held at a time: each is told as a failed attempt and parked at last, and another's arrives."""
    certificate = make_certificate(tmp_path, "IP:127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with service(tmp_path, webhook_prefetch=4) as running, local_server(lambda _: Reply(204)) as good:
        with breaking_server(certificate, fault) as port:
            for index in range(4):
                await deliver(running, f"https://127.0.0.1:{port}/", delivery_id=f"bad{index}", schedule_s=pauses("10s"))
            await deliver(running, good.url(), delivery_id="good")
            await eventually(lambda: len(running.parked()) == 4 and len(running.events()) == 9, 15)

    outcomes = sorted((event["delivery_id"], event["outcome"]) for event in running.events())
    assert outcomes == [*((f"bad{i}", told) for i in range(4) for told in ("failed", "parked")), ("good", "delivered")]
    assert all("the connection broke" in event["error"] for event in running.events() if event["outcome"] != "delivered")
