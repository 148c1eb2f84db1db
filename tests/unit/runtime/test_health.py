"""The probes of a worker."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from shared.runtime.health import HealthServer


@pytest.fixture
async def states() -> dict[str, bool]:
    return {"broker": True, "store": True, "consumer": True}


@pytest.fixture
async def server(states: dict[str, bool]) -> AsyncIterator[HealthServer]:
    server = HealthServer(port=0, readiness=lambda: states)
    await server.start()
    yield server
    await server.stop()


async def ask(server: HealthServer, request: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def get(server: HealthServer, path: str) -> tuple[int, bytes]:
    return await ask(server, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def test_ready_when_every_dependency_answers(server: HealthServer) -> None:
    """/readyz names each dependency and its state."""
    status, body = await get(server, "/readyz")

    assert status == 200
    assert json.loads(body)["dependencies"] == {"broker": "ok", "store": "ok", "consumer": "ok"}


async def test_not_ready_when_one_is_away_but_alive(server: HealthServer, states: dict[str, bool]) -> None:
    """A dependency that is away makes the worker unready, not dead."""
    states["store"] = False

    status, body = await get(server, "/readyz")

    assert status == 503
    assert json.loads(body)["dependencies"]["store"] == "unavailable"
    assert (await get(server, "/livez"))[0] == 200


async def test_metrics_are_served(server: HealthServer) -> None:
    """/metrics is Prometheus text."""
    status, body = await get(server, "/metrics")

    assert status == 200
    assert b"meshwork_stage_deliveries_total" in body


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [(b"GET /nothing HTTP/1.1\r\n\r\n", 404), (b"POST /livez HTTP/1.1\r\n\r\n", 405), (b"HEAD /livez HTTP/1.1\r\n\r\n", 200)],
)
async def test_anything_else_is_refused(server: HealthServer, request_bytes: bytes, expected: int) -> None:
    """Only GET and HEAD of the three pages are answered with 200."""
    assert expected == (await ask(server, request_bytes))[0]


async def test_a_client_that_sends_too_much_is_cut_off(server: HealthServer) -> None:
    """A probe port does not buffer what strangers send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000)

    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 6) == b""
    writer.close()
    assert (await get(server, "/livez"))[0] == 200
