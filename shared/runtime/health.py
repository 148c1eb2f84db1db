"""A worker's own small HTTP server: `/livez`, `/readyz`, `/metrics`. No framework: three GETs without a body.

server = HealthServer(port=9100, readiness=worker.ready)
await server.start()
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping

from shared.runtime import metrics

Readiness = Callable[[], Mapping[str, bool]]

_REQUEST_S = 5.0  # a probe that has not sent its request by then is cut off
_MAX_HEAD_BYTES = 8 << 10
_JSON = "application/json"


class HealthServer:
    """Answers probes for one process. `readiness` names each dependency and whether it answers."""

    def __init__(self, port: int, readiness: Readiness, host: str = "127.0.0.1") -> None:
        self._host = host
        self._port = port
        self._readiness = readiness
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port in use, also when 0 (any free one) was asked for."""
        if self._server is None:
            return self._port
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listens from now on."""
        self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=_MAX_HEAD_BYTES)

    async def stop(self) -> None:
        """Closes the port."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0].decode("latin-1")
        status, body, content_type = self._page(path) if method in {b"GET", b"HEAD"} else ("405 Method Not Allowed", b"", _JSON)
        lines = (f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", "Connection: close", "", "")
        return "\r\n".join(lines).encode() + (b"" if method == b"HEAD" else body)

    def _page(self, path: str) -> tuple[str, bytes, str]:
        if path == "/livez":  # that it answers at all is the news: the event loop turns
            return "200 OK", b'{"status": "alive"}', _JSON
        if path == "/readyz":
            return self._readyz()
        if path == "/metrics":
            body, content_type = metrics.exposition()
            return "200 OK", body, content_type
        return "404 Not Found", b'{"status": "not found"}', _JSON

    def _readyz(self) -> tuple[str, bytes, str]:
        states = dict(self._readiness())
        ready = all(states.values())
        dependencies = {name: "ok" if up else "unavailable" for name, up in states.items()}
        body = json.dumps({"status": "ready" if ready else "waiting", "dependencies": dependencies}).encode()
        return ("200 OK" if ready else "503 Service Unavailable"), body, _JSON
