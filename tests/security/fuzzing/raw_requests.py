"""Bytes on a socket, which a client would refuse to write: to the product's own HTTP server, several connections at a time."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

from gateway.server import server_of
from tests.security.fuzzing.attacked import NEW_JOBS_AFTER, Attacked, attacked_gateway
from tests.security.fuzzing.changes import changed_bytes
from tests.security.fuzzing.recorded import Asked, changed, recorded
from tests.security.fuzzing.tally import Tally
from tests.unit.gateway_http.conftest import RunningGateway

AT_ONCE = 16
PATIENCE_S = 0.5  # for an answer: a request whose length lies never gets one
FRAMINGS = [
    "POST /api/v1/reconstruct HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    "GET /livez HTTP/1.1\r\n\r\n",
    "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nx\r\n0\r\n\r\n",
    "GET /livez HTTP/1.0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /api/v1/jobs HTTP/1.1\r\nHost : x\r\n X: y\r\n\r\n",
    "GET http://other.example/api/v1/jobs HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /ws/jobs/x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: meshwork.key.x, meshwork\r\n\r\n",
    "GET /api/v1/jobs HTTP/2.0\r\nHost: x\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /api/v1/jobs HTTP/1.1\r\nHost: x\r\nX-Long: " + "a" * 70_000 + "\r\n\r\n",
    "GET /" + "a" * 70_000 + " HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /api/v1/jobs HTTP/1.1\r\nHost: x\r\n" + "A: b\r\n" * 5000 + "\r\n",
]


async def try_raw(seed: int, count: int, folder: Path) -> Tally:
    """So many connections to a gateway of its own."""
    random, tally = Random(seed), Tally()
    async with attacked_gateway(folder) as attacked, served(attacked.gateway) as port:
        for first in range(0, count, NEW_JOBS_AFTER):
            texts = [_text(random, attacked) for _ in range(min(NEW_JOBS_AFTER, count - first))]
            turns = asyncio.Semaphore(AT_ONCE)
            await asyncio.gather(*(_try(port, text, turns, tally) for text in texts))
            await attacked.refresh()
        if await _answer(port, b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 30) != "200":
            tally.fault(f"the server does not answer any more (raw, seed {seed})")
        for error in attacked.errors:
            tally.fault(f"the log has an error (raw, seed {seed}): {error}")
    return tally


def _text(random: Random, attacked: Attacked) -> bytes:
    """A request as bytes, half of them changed anywhere, line and headers most of all."""
    if random.random() < 0.15:
        text = random.choice(FRAMINGS).encode()
        return text if random.random() < 0.5 else changed_bytes(random, text, 120)
    text = _written(changed(random, recorded(random, attacked.known), attacked.known))
    return text if random.random() < 0.4 else changed_bytes(random, text, 300)


def _written(asked: Asked) -> bytes:
    headers = [*asked.headers, ("connection", "close")]
    if asked.body and not any(name in {"content-length", "transfer-encoding"} for name, _ in headers):
        headers.append(("content-length", str(len(asked.body))))
    lines = [f"{name}: {value}".encode("latin-1", "replace") for name, value in headers]
    return b"\r\n".join([asked.method.encode() + b" " + asked.target() + b" HTTP/1.1", *lines, b"", asked.body])


async def _try(port: int, text: bytes, turns: asyncio.Semaphore, tally: Tally) -> None:
    async with turns:
        status = await _answer(port, text, PATIENCE_S)
    tally.note("raw", status)
    if status.startswith("5"):
        tally.fault(f"status {status} to {text[:3000]!r}")


async def _answer(port: int, text: bytes, patience_s: float) -> str:
    """The status, or `none`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b""
    with contextlib.suppress(OSError, TimeoutError):
        writer.write(text)
        async with asyncio.timeout(patience_s):
            head = await reader.read(12)
    writer.transport.abort()
    return head[9:12].decode("latin-1") if head.startswith(b"HTTP/") else "none"


@contextlib.asynccontextmanager
async def served(gateway: RunningGateway) -> AsyncIterator[int]:
    """The port of the product's server in front of the gateway, whose lifespan goes on."""
    server = server_of(gateway.app, gateway.settings.model_copy(update={"port": 0, "host": "127.0.0.1"}))
    server.config.lifespan = "off"
    serving = asyncio.ensure_future(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn tells it in no other way
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await serving
        gc.unfreeze()
