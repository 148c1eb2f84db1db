"""Nobody sees or touches another tenant's job: every call of the OpenAPI document is tried, a new one too as soon as it appears."""

import asyncio
import re
from typing import Any

import httpx
import pytest

from gateway.auth import scope_of
from tests.security.conftest import ACME, OTHER, REQUEST, new_job
from tests.unit.gateway_http.conftest import RunningGateway, assert_problem

NOBODY = "00000000-0000-4000-8000-000000000000"
# Calls that name no job; whoever adds one says here why it tells nothing of other tenants.
WITHOUT_A_JOB = {
    "POST /api/v1/reconstruct": "makes the caller's own",
    "POST /api/v1/jobs": "makes the caller's own",
    "GET /api/v1/jobs": "lists the caller's own; tested below",
    "GET /api/v1/capabilities": "the same for everybody",
}
OPEN = {"GET /livez", "GET /readyz", "GET /metrics"}
ALLOWED = {"read": {"read"}, "submit": {"submit"}, "admin": {"read", "submit", "admin"}}


def operations(gateway: RunningGateway) -> list[tuple[str, str]]:
    """(method, path) of everything that the document promises."""
    return [(method.upper(), path) for path, item in gateway.app.openapi()["paths"].items() for method in item]


def filled(path: str, **values: str) -> str:
    """The path with its placeholders filled; one that this test does not know is a failure."""
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], path)


async def finished_job(gateway: RunningGateway, client: httpx.AsyncClient) -> tuple[str, str]:
    """A completed job with an artifact, and the id of its webhook."""
    job_id = await new_job(client)
    await gateway.finish(job_id, {"model.glb": b"glTF of acme"})
    deliveries = (await client.get(f"/api/v1/jobs/{job_id}/webhooks")).json()["deliveries"]
    return job_id, deliveries[0]["id"]


def told(answer: httpx.Response) -> dict[str, Any]:
    """A problem without the address that was asked for."""
    return {name: value for name, value in answer.json().items() if name != "instance"}


def test_every_call_is_known_to_this_test(gateway: RunningGateway) -> None:
    """A call without a job in its path is listed above."""
    without = {f"{method} {path}" for method, path in operations(gateway) if "{job_id}" not in path}
    assert without == WITHOUT_A_JOB.keys() | OPEN


async def test_every_call_on_anothers_job_is_404(gateway: RunningGateway, acme: httpx.AsyncClient, other: httpx.AsyncClient) -> None:
    """Queued or ended, word for word as if there were no such job; nothing happens to it."""
    queued, (finished, delivery) = await new_job(acme), await finished_job(gateway, acme)
    before = [(await acme.get(f"/api/v1/jobs/{job_id}")).json() for job_id in (queued, finished)]
    calls = [(method, path) for method, path in operations(gateway) if "{job_id}" in path]
    assert len(calls) >= 8
    for method, path in calls:
        for job_id in (queued, finished):
            values = {"name": "model.glb", "delivery_id": delivery}
            answer = await other.request(method, filled(path, job_id=job_id, **values), json={} if method == "POST" else None)
            nobody = await other.request(method, filled(path, job_id=NOBODY, **values), json={} if method == "POST" else None)
            assert_problem(answer, 404, "NOT_FOUND")
            assert told(answer) == told(nobody)
    assert [(await acme.get(f"/api/v1/jobs/{job_id}")).json() for job_id in (queued, finished)] == before


async def test_an_upload_that_is_still_arriving_is_nobodys(gateway: RunningGateway, other: httpx.AsyncClient) -> None:
    """The hidden row is no job, not even its owner's."""
    await gateway.app.state.parts.jobs.begin_upload("other", NOBODY.replace("0", "1"))
    for method, path in operations(gateway):
        if "{job_id}" in path:
            url = filled(path, job_id=NOBODY.replace("0", "1"), name="model.glb", delivery_id=NOBODY)
            assert_problem(await other.request(method, url), 404, "NOT_FOUND")


async def test_anothers_webhook_cannot_be_replayed_through_an_own_job(
    gateway: RunningGateway, acme: httpx.AsyncClient, other: httpx.AsyncClient
) -> None:
    """Tenant, job and delivery belong together."""
    _, theirs = await finished_job(gateway, acme)
    mine, _ = await finished_job(gateway, other)
    assert_problem(await other.post(f"/api/v1/jobs/{mine}/webhooks/{theirs}/replay"), 404, "NOT_FOUND")


async def test_lists_hold_the_callers_own_jobs_alone(acme: httpx.AsyncClient, other: httpx.AsyncClient) -> None:
    """Also with a cursor that another tenant was given."""
    theirs = {await new_job(acme) for _ in range(3)}
    mine = await new_job(other)
    page = (await acme.get("/api/v1/jobs", params={"limit": 1})).json()
    assert {job["job_id"] for job in (await other.get("/api/v1/jobs")).json()["jobs"]} == {mine}
    shown = (await other.get("/api/v1/jobs", params={"cursor": page["next_cursor"], "limit": 100})).json()["jobs"]
    assert theirs.isdisjoint(job["job_id"] for job in shown)


async def test_an_idempotency_key_is_the_tenants_own(acme: httpx.AsyncClient, other: httpx.AsyncClient) -> None:
    """The same key and body of another tenant make another job."""
    first = await new_job(acme, **{"Idempotency-Key": "order-1"})
    second = await new_job(other, **{"Idempotency-Key": "order-1"})
    assert first != second
    assert first == await new_job(acme, **{"Idempotency-Key": "order-1"})


async def test_no_call_answers_without_a_key(gateway: RunningGateway, acme: httpx.AsyncClient) -> None:
    """401, with a job or without; only probes are open. Nearly the right key is no key."""
    job_id, delivery = await finished_job(gateway, acme)
    almost = [{}, {"X-API-Key": ""}, {"X-API-Key": ACME["admin"][:-1]}, {"X-API-Key": ACME["admin"] + " x"}, {"Authorization": OTHER}]
    for headers in almost:
        async with gateway.client(**headers) as stranger:
            for method, path in operations(gateway):
                answer = await stranger.request(method, filled(path, job_id=job_id, name="model.glb", delivery_id=delivery))
                if f"{method} {path}" in OPEN:
                    assert answer.status_code in {200, 503}
                else:
                    assert_problem(answer, 401, "UNAUTHENTICATED")


@pytest.mark.parametrize("scope", ["read", "submit", "admin"])
async def test_a_key_opens_what_its_scope_says(gateway: RunningGateway, acme: httpx.AsyncClient, scope: str) -> None:
    """403 for everything else; a key that may only submit sees nothing, one that may only read changes nothing."""
    job_id, delivery = await finished_job(gateway, acme)
    async with gateway.client(**{"X-API-Key": ACME[scope]}) as client:
        for method, path in sorted(operations(gateway), key=lambda call: call[0] == "DELETE"):
            if f"{method} {path}" in OPEN:
                continue
            url = filled(path, job_id=job_id, name="model.glb", delivery_id=delivery)
            answer = await client.request(method, url)
            if scope_of(method, path) in ALLOWED[scope]:
                assert answer.status_code not in {401, 403}, (method, path)
            else:
                assert_problem(answer, 403, "FORBIDDEN")
    if scope != "admin":
        assert (await acme.get(f"/api/v1/jobs/{job_id}")).status_code == 200


def test_a_call_that_nobody_thought_of_asks_for_the_most() -> None:
    """A new route is closed to keys that may only submit, until somebody opens it."""
    assert scope_of("POST", "/api/v1/anything") == scope_of("PATCH", "/api/v1/jobs/x") == scope_of("DELETE", "/api/v1/jobs/x") == "admin"
    assert scope_of("POST", "/api/v1/jobs/x/webhooks/y/replay") == "admin"
    assert scope_of("POST", "/api/v1/jobs/x/cancel") == scope_of("POST", "/api/v1/reconstruct") == "submit"


@pytest.mark.parametrize(
    "path",
    [
        "//api/v1/jobs",
        "/api//v1/jobs",
        "/API/v1/jobs",
        "/api/v1/jobs/",
        "/x/../api/v1/jobs",
        "/%61pi/v1/jobs",
        "/livez/../api/v1/jobs",
        "/api/v1/jobs/x/artifacts/y?signature=",
        "/api/v1/jobs?signature=x",
        "/api/v1/jobs/x?signature=x",
        "/console/../api/v1/jobs",
        "/console/%2e%2e/%2e%2e/etc/passwd",
        "/console/..%2f..%2fapp.py",
    ],
)
async def test_no_spelling_of_a_path_slips_past_the_door(gateway: RunningGateway, path: str) -> None:
    """Whatever the path is taken for, nothing of a tenant or of the file system is told."""
    async with gateway.client() as stranger:
        for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT"):
            assert (await stranger.request(method, httpx.URL("http://gateway", raw_path=path.encode()))).status_code in {401, 404, 405}


class Watcher:
    """A WebSocket client on the application itself."""

    def __init__(self, gateway: RunningGateway, job_id: str, *headers: tuple[str, str], subprotocols: tuple[str, ...] = ()) -> None:
        self.sent: list[dict[str, Any]] = []
        self._gateway = gateway
        self._scope = {
            "type": "websocket",
            "path": f"/ws/jobs/{job_id}",
            "raw_path": f"/ws/jobs/{job_id}".encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "subprotocols": list(subprotocols),
        }

    async def run(self) -> list[str]:
        """The kinds of messages that came back."""
        incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        incoming.put_nowait({"type": "websocket.connect"})

        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)

        await asyncio.wait_for(self._gateway.app(self._scope, incoming.get, send), 5)
        return [message["type"] for message in self.sent]


async def test_the_socket_keeps_tenants_and_scopes_apart(gateway: RunningGateway, acme: httpx.AsyncClient) -> None:
    """No key, another tenant's, one that may not read: closed with 1008 before anything is told; the owner's hears the story."""
    job_id, _ = await finished_job(gateway, acme)
    refused = [
        Watcher(gateway, job_id),
        Watcher(gateway, job_id, ("x-api-key", OTHER)),
        Watcher(gateway, job_id, ("x-api-key", ACME["submit"])),
        Watcher(gateway, job_id, subprotocols=(f"meshwork.key.{OTHER}",)),
        Watcher(gateway, job_id, subprotocols=("meshwork.key.",)),
    ]
    for watcher in refused:
        assert await watcher.run() == ["websocket.close"]
        assert watcher.sent[0]["code"] == 1008
    allowed = Watcher(gateway, job_id, subprotocols=("meshwork", f"meshwork.key.{ACME['read']}"))
    assert await allowed.run() == ["websocket.accept", "websocket.send", "websocket.send", "websocket.close"]
    assert allowed.sent[0]["subprotocol"] == "meshwork"  # the key is not said back


async def test_what_a_tenant_sends_is_told_to_that_tenant_alone(acme: httpx.AsyncClient, other: httpx.AsyncClient) -> None:
    """Nothing of a request shows in what everybody may read."""
    await acme.post("/api/v1/reconstruct", json=REQUEST | {"metadata": {"mark": "only-acme-knows"}})
    for path in ("/metrics", "/readyz", "/openapi.json", "/api/v1/capabilities", "/api/v1/jobs"):
        assert "only-acme-knows" not in (await other.get(path)).text
