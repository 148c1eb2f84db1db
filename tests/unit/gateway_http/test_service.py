"""Probes, metrics, limits, and what happens while servers are away."""

import asyncio
from pathlib import Path

import httpx
import pytest

from gateway.app import Adapters, create_app
from gateway.database.engine import create_engine
from gateway.readiness import KEPT_S, Dependency, Readiness
from shared.broker.memory import MemoryBroker
from shared.errors import DependencyUnavailable
from shared.storage.directory import DirectoryStore
from tests.unit.gateway_http.conftest import KEY, URLS, RunningGateway, assert_problem, running_gateway, settings_for_tests


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/console/"])
async def test_open_pages_need_no_key(anonymous: httpx.AsyncClient, path: str) -> None:
    """Probes, documentation, metrics and the console's page."""
    assert (await anonymous.get(path)).status_code == 200


async def test_readiness_names_every_dependency(anonymous: httpx.AsyncClient) -> None:
    """All of them, each with its state."""
    answer = (await anonymous.get("/readyz")).json()
    assert answer["status"] == "ready"
    assert answer["dependencies"].keys() >= {"database", "broker", "store"}
    assert all(dependency == {"state": "ok"} for dependency in answer["dependencies"].values())


async def test_readiness_asks_nobody_twice_in_a_second(tmp_path: Path) -> None:
    """However many ask at once; then it asks again. What is away is told as long."""
    pings, now, away = [], 0.0, False

    async def ping() -> None:
        pings.append(now)
        await asyncio.sleep(0.01)
        if away:
            raise DependencyUnavailable("away")

    readiness = Readiness({"counted": Dependency(ping, required=True)}, clock=lambda: now)
    assert await asyncio.gather(*(readiness.answers() for _ in range(50))) == [{"counted": True}] * 50
    now, away = KEPT_S - 0.01, True
    assert (await readiness.answers(), pings) == ({"counted": True}, [0.0])
    now = KEPT_S
    assert await asyncio.gather(*(readiness.answers() for _ in range(50))) == [{"counted": False}] * 50
    assert pings == [0.0, KEPT_S]


async def test_a_flood_of_probes_is_one_ping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may ask, and no rate holds them."""
    pings, database = [], create_engine(f"sqlite+aiosqlite:///{tmp_path}/meshwork.db")

    async def ping() -> None:
        pings.append(1)

    monkeypatch.setattr("gateway.readiness.KEPT_S", 3600.0)
    store = DirectoryStore(tmp_path / "artifacts")
    counted = {"counted": Dependency(ping, required=True)}
    app = create_app(settings_for_tests(), Adapters(database, MemoryBroker(), store, store.prepare, dependencies=counted))
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://g") as client:
        answers = await asyncio.gather(*(client.get("/readyz") for _ in range(30)))
    assert ({answer.status_code for answer in answers}, pings) == ({200}, [1])
    await database.close()


async def test_jobs_are_taken_while_the_broker_is_away(tmp_path: Path) -> None:
    """202: the outbox waits."""

    class AwayBroker(MemoryBroker):
        async def connect(self) -> None:
            raise DependencyUnavailable("no broker")

        async def ping(self) -> None:
            raise DependencyUnavailable("no broker")

        async def publish(self, publication: object) -> None:
            raise DependencyUnavailable("no broker")

    database, store = create_engine(f"sqlite+aiosqlite:///{tmp_path}/meshwork.db"), DirectoryStore(tmp_path / "artifacts")
    app = create_app(settings_for_tests(), Adapters(database, AwayBroker(), store, store.prepare), start_patience_s=1)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://g") as client:
        answer = await client.post("/api/v1/reconstruct", json={"image_urls": URLS}, headers={"X-API-Key": KEY})
        assert answer.status_code == 202
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    await database.close()


async def test_without_a_database_nothing_is_promised(tmp_path: Path) -> None:
    """503 with Retry-After for whoever has the key; probes answer."""
    database = create_engine(f"sqlite+aiosqlite:///{tmp_path}/no/such/folder/meshwork.db")
    store = DirectoryStore(tmp_path / "artifacts")
    app = create_app(settings_for_tests(), Adapters(database, MemoryBroker(), store, store.prepare), start_patience_s=0.2)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://g") as client:
        answer = await client.post("/api/v1/reconstruct", json={"image_urls": URLS}, headers={"X-API-Key": KEY})
        assert assert_problem(answer, 503, "UNAVAILABLE")["retryable"]
        assert answer.headers["retry-after"]
        assert_problem(await client.get("/api/v1/jobs"), 401, "UNAUTHENTICATED")
        assert (await client.get("/livez")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["dependencies"]["database"]) == (503, {"state": "unavailable"})
    await database.close()


async def test_a_database_that_goes_away_is_told_as_such(api: httpx.AsyncClient, gateway: RunningGateway, monkeypatch) -> None:
    """Never 500, nothing of the inside."""

    async def fail(*_: object) -> None:
        raise DependencyUnavailable("the database: secret-host refused")

    monkeypatch.setattr(gateway.app.state.parts.jobs, "insert_job", fail)
    answer = await api.post("/api/v1/reconstruct", json={"image_urls": URLS})
    assert_problem(answer, 503, "UNAVAILABLE")
    assert "secret-host" not in answer.text


async def test_an_unexpected_error_tells_nothing(api: httpx.AsyncClient, gateway: RunningGateway, monkeypatch) -> None:
    """INTERNAL, without a word of what it was."""

    async def fail(*_: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(gateway.app.state.parts.jobs, "get_job", fail)
    answer = await api.get("/api/v1/jobs/00000000-0000-0000-0000-000000000000")
    assert_problem(answer, 500, "INTERNAL")
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_answers_carry_security_headers(api: httpx.AsyncClient) -> None:
    """Nothing is sniffed, framed or cached; errors included."""
    for path in ("/api/v1/jobs", "/api/v1/nothing"):
        headers = (await api.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert headers["content-security-policy"].startswith("default-src 'none'")


async def test_metrics_count_requests_by_route(api: httpx.AsyncClient) -> None:
    """By the route's template: no id is a label."""
    await api.get("/api/v1/jobs/00000000-0000-0000-0000-00000000abcd")
    text = (await api.get("/metrics")).text
    assert 'meshwork_http_requests_total{method="GET",route="/api/v1/jobs/{job_id}",status="404"}' in text
    assert "00000000-0000" not in text


async def test_capabilities_describe_every_option(api: httpx.AsyncClient) -> None:
    """Presets, pipelines, outputs, limits, and each option with a description."""
    found = (await api.get("/api/v1/capabilities")).json()
    assert found.keys() >= {"presets", "pipelines", "outputs", "stages", "limits", "versions"}
    assert found["limits"]["min_images"] == 3 and found["limits"]["max_images"] == 6
    assert "model.glb" in found["outputs"]
    for stage in found["stages"].values():
        assert stage["version"]
        for name, option in stage["params"]["properties"].items():
            assert option.get("description"), f"{name} has no description"


async def test_a_tenant_that_asks_too_often_waits(tmp_path: Path) -> None:
    """429 with the seconds to wait; a stranger empties nobody's bucket."""
    async with running_gateway(tmp_path, rate_limit_per_minute=3) as gateway, gateway.client() as client:
        for _ in range(5):
            assert_problem(await client.get("/api/v1/jobs"), 401, "UNAUTHENTICATED")
        answers = [await client.get("/api/v1/jobs", headers={"X-API-Key": KEY}) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert assert_problem(answers[-1], 429, "RATE_LIMITED")["retryable"]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
        assert (await client.get("/readyz")).status_code == 200
