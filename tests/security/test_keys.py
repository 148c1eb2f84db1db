"""Keys: kept as hashes, compared in constant time, rotated, revoked, ended; and what a tenant may take."""

import asyncio
import hmac
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from deploy.keys import line_of, new_key
from gateway import tenants
from gateway.routes import events
from gateway.settings import GatewaySettings
from gateway.tenants import FIRST_TENANT, LOOK_AGAIN_S, Tenants, TenantsUnreadable
from tests.security.conftest import ACME, OTHER, REQUEST, key_entry, new_job, two_tenants, write_tenants
from tests.security.fuzzing.raw_requests import served
from tests.support.gateway_rows import FakeClock
from tests.unit.gateway_http.conftest import KEY, RunningGateway, assert_problem, running_gateway, settings_for_tests


class Ticks:
    """A monotonic clock that tests move past the next look at the file."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float = LOOK_AGAIN_S) -> None:
        self.now += seconds


def settings(path: Path | None, **changes: object) -> GatewaySettings:
    return settings_for_tests(tenants_file=path, **changes)


def test_nothing_that_is_kept_holds_a_key(tmp_path: Path) -> None:
    """Neither the file nor the memory of the gateway's list: hashes alone."""
    known = Tenants(settings(two_tenants(tmp_path)))
    for key in (*ACME.values(), OTHER):
        assert known.caller_of(key) is not None
        assert key not in (tmp_path / "tenants.yml").read_text()
        assert key not in repr(vars(known)) and key.encode() not in b"".join(entry.digest for entry in known._known)


def test_every_hash_is_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same comparisons for the first key, the last and none of them."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return real(left, right)

    real = hmac.compare_digest
    monkeypatch.setattr(tenants.hmac, "compare_digest", compare)
    known, counts = Tenants(settings(two_tenants(tmp_path))), set()
    for key in (KEY, ACME["read"], OTHER, "none of them"):
        compared.clear()
        known.caller_of(key)
        counts.add(len(compared))
        assert all(len(left) == len(right) == 32 for left, right in compared)
    assert counts == {5}


def test_two_keys_are_good_while_one_is_rotated_and_a_revoked_one_opens_nothing(tmp_path: Path) -> None:
    """Old and new, then the new one alone; without a restart, a second after the file changed."""
    old, new, ticks = "mwk_old", "mwk_new", Ticks()
    path = write_tenants(tmp_path / "t.yml", {"acme": {"keys": [key_entry(old, "read")]}})
    known = Tenants(settings(path), clock=ticks)
    write_tenants(path, {"acme": {"keys": [key_entry(old, "read"), key_entry(new, "read")]}})
    ticks.pass_by()
    assert [known.caller_of(key) is not None for key in (old, new)] == [True, True]
    write_tenants(path, {"acme": {"keys": [key_entry(new, "read")]}})
    ticks.pass_by(LOOK_AGAIN_S / 2)
    assert known.caller_of(old) is not None
    ticks.pass_by()
    assert [known.caller_of(key) is not None for key in (old, new)] == [False, True]


@pytest.mark.parametrize("news", [False, True])
async def test_a_revoked_key_keeps_no_stream_open(
    gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, news: bool
) -> None:
    """Neither events nor a socket: nothing more is told, and what has nothing to tell ends at its next sign of life."""
    monkeypatch.setattr(tenants, "LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 30.0 if news else 0.2)
    async with served(gateway) as port, asyncio.timeout(20), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        job_id, key = await new_job(client, **{"X-API-Key": ACME["submit"]}), {"X-API-Key": ACME["read"]}
        async with (
            client.stream("GET", f"/api/v1/jobs/{job_id}/events", headers=key) as stream,
            connect(f"ws://127.0.0.1:{port}/ws/jobs/{job_id}", additional_headers=key) as socket,
        ):
            lines = stream.aiter_lines()
            assert "init" in await anext(line async for line in lines if line.startswith("data:"))
            assert "init" in str(await socket.recv())
            write_tenants(tmp_path / "tenants.yml", {"acme": {"keys": [key_entry(ACME["submit"], "submit", "read")]}})
            if news:
                await gateway.move(job_id, "sfm", 40.0, "matching")
            assert [line async for line in lines if line.startswith("data:")] == []
            with pytest.raises(ConnectionClosedError, match="1008"):
                await socket.recv()


def test_a_key_of_any_script_is_itself_alone() -> None:
    """Not what an encoder makes of letters that it does not know."""
    known = Tenants(settings(None, api_key="ключ-€"))
    assert known.caller_of("????-?") is None
    assert known.caller_of("ключ-€".encode().decode("latin-1")) is not None  # as the header's bytes arrive


def test_the_first_tenants_key_takes_two_values_while_it_is_rotated() -> None:
    """As the other secrets do."""
    known = Tenants(settings(None, api_key="new-one, old-one"))
    assert [caller and caller.tenant for caller in map(known.caller_of, ("new-one", "old-one", "new-one, old-one", ""))] == [
        FIRST_TENANT,
        FIRST_TENANT,
        None,
        None,
    ]


def test_a_key_ends(tmp_path: Path) -> None:
    """From `expires_at` on it opens nothing."""
    clock = FakeClock()
    entry = key_entry("mwk_short", "read", expires_at=(clock.now + timedelta(hours=1)).isoformat())
    known = Tenants(settings(write_tenants(tmp_path / "t.yml", {"acme": {"keys": [entry]}})), now=clock)
    assert known.caller_of("mwk_short") is not None
    clock.pass_by(hours=1)
    assert known.caller_of("mwk_short") is None


def test_a_file_that_becomes_unreadable_changes_nothing(tmp_path: Path) -> None:
    """A typing mistake must neither lock everybody out nor let anybody in."""
    ticks, path = Ticks(), two_tenants(tmp_path)
    known = Tenants(settings(path), clock=ticks)
    for broken in ("acme: {keys: [", "acme: 3", "acme: {keys: [{id: x, sha256: short, scopes: [admin]}]}", "acme: {unknown: 1}", "\x00"):
        path.write_text(broken)
        ticks.pass_by()
        assert known.caller_of(OTHER) is not None
    path.unlink()
    ticks.pass_by()
    assert known.caller_of(OTHER) is not None
    write_tenants(path, {})
    ticks.pass_by()
    assert known.caller_of(OTHER) is None


@pytest.mark.parametrize(
    "entries",
    [
        {"acme": {"keys": [key_entry("a", "read") | {"key": "plain"}]}},
        {"acme": {"keys": [key_entry("a", "everything")]}},
        {"acme": {"keys": [key_entry("a")]}},
        {"acme": {"keys": [key_entry("a", "read")]}, "other": {"keys": [key_entry("a", "read")]}},
        {"acme": {"webhook_secret": "my-own-secret-in-plain"}},
        {"../acme": {}},
        {"a" * 65: {}},
        {"acme": {"keys": [key_entry("a", "read", expires_at="2026-01-01T00:00:00")]}},
        ["acme"],
    ],
)
def test_a_file_with_a_mistake_stops_the_start_without_showing_a_secret(tmp_path: Path, entries: dict[str, object]) -> None:
    """A key that belongs to two, a scope that there is not, a time without a zone: told by its place."""
    path = write_tenants(tmp_path / "t.yml", entries)
    with pytest.raises(TenantsUnreadable) as caught:
        Tenants(settings(path))
    assert "my-own-secret" not in str(caught.value) and "plain" not in str(caught.value)
    with pytest.raises(TenantsUnreadable):
        Tenants(settings(tmp_path / "missing.yml"))


def test_a_made_key_opens_what_was_asked_for(tmp_path: Path) -> None:
    """What the tool prints can be pasted; the key has 256 random bits and fits a header and a WebSocket subprotocol."""
    key, entry = new_key("ci", ["submit", "read"], days=1)
    (tmp_path / "t.yml").write_text(f"acme:\n  keys:\n{line_of(entry)}\n")
    caller = Tenants(settings(tmp_path / "t.yml")).caller_of(key)
    assert caller is not None and caller.tenant == "acme" and caller.scopes == {"read", "submit"} and not caller.may("admin")
    assert entry.expires_at is not None and entry.expires_at > datetime.now(UTC)
    assert len(key) >= 43 and set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert new_key("ci", ["read"], None)[0] != new_key("ci", ["read"], None)[0]


def test_no_two_tenants_sign_with_one_secret(tmp_path: Path) -> None:
    """Or one could send webhooks in the other's name. Who is no longer in the file shares none with those who are."""
    own = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNk"
    two = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0LXRlc3Q=,whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0LXRlc3U="
    known = Tenants(settings(two_tenants(tmp_path, webhook_secret=own), webhook_secret=two))
    assert known.webhook_secrets_of("acme") == (own,)
    assert known.webhook_secrets_of(FIRST_TENANT) == tuple(two.split(","))
    everyone = [known.webhook_secrets_of(tenant) for tenant in (FIRST_TENANT, "acme", "other", "gone")]
    flat = [secret for secrets in everyone for secret in secrets]
    assert len(set(flat)) == len(flat) == 7
    GatewaySettings(_env_file=None, webhook_secret=",".join(flat))  # each has the form that receivers expect


async def test_a_revoked_key_is_refused_by_a_running_gateway(gateway: RunningGateway, tmp_path: Path) -> None:
    """No restart: the file is the word."""
    known: Tenants = gateway.app.state.parts.tenants
    ticks = Ticks()
    known._clock, known._looked_at = ticks, 0.0
    async with gateway.client(**{"X-API-Key": OTHER}) as client:
        assert (await client.get("/api/v1/jobs")).status_code == 200
        write_tenants(tmp_path / "tenants.yml", {})
        ticks.pass_by()
        assert_problem(await client.get("/api/v1/jobs"), 401, "UNAUTHENTICATED")


async def test_each_tenant_has_its_own_rate(tmp_path: Path) -> None:
    """429 with Retry-After for who asks too often; nobody else waits for it."""
    path = two_tenants(tmp_path, rate_limit_per_minute=3)
    async with running_gateway(tmp_path, tenants_file=path, rate_limit_per_minute=1000) as gateway, gateway.client() as client:
        answers = [await client.get("/api/v1/jobs", headers={"X-API-Key": ACME[scope]}) for scope in ("read", "admin", "read", "admin")]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]  # one bucket for all keys of a tenant
        assert_problem(answers[-1], 429, "RATE_LIMITED")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
        for key in (OTHER, KEY):
            assert [(await client.get("/api/v1/jobs", headers={"X-API-Key": key})).status_code for _ in range(10)] == [200] * 10


async def test_each_tenant_has_its_own_quota_of_unfinished_jobs(tmp_path: Path) -> None:
    """429 with Retry-After for links, uploads and retries alike; a job that ended makes room, and nobody else waits for it."""
    path = two_tenants(tmp_path, max_unfinished_jobs=2)
    async with running_gateway(tmp_path, tenants_file=path) as gateway, gateway.client(**{"X-API-Key": ACME["admin"]}) as acme:
        ended, first = await new_job(acme), await new_job(acme)
        await gateway.finish(ended, {"report.json": b"{}"})
        await new_job(acme)
        files = [("images", (f"{index}.jpg", b"x")) for index in range(3)]
        calls = [("/api/v1/reconstruct", {"json": REQUEST}), ("/api/v1/jobs", {"files": files}), (f"/api/v1/jobs/{ended}/retry", {})]
        for path, content in calls:
            refused = await acme.post(path, **content)
            assert assert_problem(refused, 429, "QUOTA_EXCEEDED")["retryable"]
            assert int(refused.headers["retry-after"]) > 0
        for key in (OTHER, KEY):
            assert (await acme.post("/api/v1/reconstruct", json=REQUEST, headers={"X-API-Key": key})).status_code == 202
        assert (await acme.post(f"/api/v1/jobs/{first}/cancel")).status_code == 202
        await new_job(acme)
        assert_problem(await acme.post("/api/v1/reconstruct", json=REQUEST), 429, "QUOTA_EXCEEDED")


async def test_a_repeated_request_gets_its_job_at_full_quota(tmp_path: Path) -> None:
    """It asks for no job more; another body with the same key is still a conflict, another key still too much."""
    path = two_tenants(tmp_path, max_unfinished_jobs=1)
    files = [("images", (f"{index}.jpg", b"x" * (index + 1))) for index in range(3)]
    calls: list[tuple[str, dict[str, Any]]] = [("/api/v1/reconstruct", {"json": REQUEST}), ("/api/v1/jobs", {"files": files})]
    async with running_gateway(tmp_path, tenants_file=path) as gateway, gateway.client(**{"X-API-Key": ACME["admin"]}) as acme:
        for index, (call, content) in enumerate(calls):
            key = {"Idempotency-Key": f"order {index}"}
            first = await acme.post(call, headers=key, **content)
            again = await acme.post(call, headers=key, **content)
            assert (first.status_code, again.status_code, again.json()["job_id"]) == (202, 202, first.json()["job_id"])
            other = await acme.post(call, headers={"Idempotency-Key": "another order"}, **content)
            assert_problem(other, 429, "QUOTA_EXCEEDED")
            await acme.post(f"/api/v1/jobs/{first.json()['job_id']}/cancel")
        await new_job(acme)
        changed = await acme.post("/api/v1/reconstruct", headers={"Idempotency-Key": "order 0"}, json=REQUEST | {"preset": "quality"})
        assert_problem(changed, 409, "IDEMPOTENCY_CONFLICT")


async def test_an_upload_under_way_counts_for_the_quota(tmp_path: Path) -> None:
    """Or many slow uploads would be a way around it."""
    path = two_tenants(tmp_path, max_unfinished_jobs=1)
    async with running_gateway(tmp_path, tenants_file=path) as gateway, gateway.client(**{"X-API-Key": ACME["submit"]}) as acme:
        await gateway.app.state.parts.jobs.begin_upload("acme", "11111111-1111-4111-8111-111111111111")
        assert_problem(await acme.post("/api/v1/reconstruct", json=REQUEST), 429, "QUOTA_EXCEEDED")


async def test_a_quota_holds_for_requests_side_by_side(tmp_path: Path) -> None:
    """Every body is held back until all requests have passed the first look: those for which there is a place get it, no other."""
    asked, all_asked, many = 0, asyncio.Event(), 30
    body = json.dumps(REQUEST).encode()

    async def held_back() -> AsyncIterator[bytes]:
        nonlocal asked
        asked += 1
        if asked == many:
            all_asked.set()
        await all_asked.wait()
        yield body

    path, headers = two_tenants(tmp_path, max_unfinished_jobs=2), {"X-API-Key": ACME["admin"], "Content-Type": "application/json"}
    async with running_gateway(tmp_path, tenants_file=path) as gateway, gateway.client(**headers) as acme:
        answers = await asyncio.gather(*(acme.post("/api/v1/reconstruct", content=held_back()) for _ in range(many)))
        refused = [answer for answer in answers if answer.status_code != 202]
        assert len(refused) == many - 2
        for answer in refused:
            assert assert_problem(answer, 429, "QUOTA_EXCEEDED")["retryable"]
            assert int(answer.headers["retry-after"]) > 0
        assert len((await acme.get("/api/v1/jobs")).json()["jobs"]) == 2


async def test_odd_keys_are_no_keys(gateway: RunningGateway) -> None:
    """Any bytes, none of them an error of ours."""
    odd = [b"\xff\xfe", b"\x00", os.urandom(200), b"a" * 60_000, b"Bearer", b", ".join([KEY.encode()] * 2), "ключ".encode()]
    transport = httpx.ASGITransport(gateway.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        for value in odd:
            for headers in ([(b"x-api-key", value)], [(b"authorization", b"Bearer " + value)], [(b"authorization", value)]):
                assert_problem(await client.get("/api/v1/jobs", headers=headers), 401, "UNAUTHENTICATED")
