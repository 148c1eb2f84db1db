"""A small scripted HTTP server: what a caller's photo server or webhook receiver may do, good or bad."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """What came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What goes out. `pieces` are written one by one with a pause; `cut`: the connection ends in the middle."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    pieces: Sequence[bytes] = ()
    pause_s: float = 0.0
    cut: bool = False
    announce: int | None = None  # content-length, when it is not the truth


Script = Callable[[Request], Reply]


class LocalServer:
    """Answers by its script and remembers the requests."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.port = 0
        self.most_at_once = 0
        self._at_once = 0

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            request = await _read_request(reader)
            self.requests.append(request)
            await _write_reply(writer, self.script(request))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._at_once -= 1
            writer.close()


@asynccontextmanager
async def local_server(script: Script, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[LocalServer]:
    """The server, listening on a free port."""
    server = LocalServer(script)
    listener = await asyncio.start_server(server.serve, host, 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


async def _read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)


async def _write_reply(writer: asyncio.StreamWriter, reply: Reply) -> None:
    await asyncio.sleep(reply.delay_s)
    pieces = reply.pieces or [reply.body]
    length = sum(map(len, pieces)) if reply.announce is None else reply.announce
    headers = {"content-length": str(length), "connection": "close"} | dict(reply.headers)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
    writer.write(f"HTTP/1.1 {reply.status} Said\r\n{head}\r\n".encode("latin-1"))
    for index, piece in enumerate(pieces):
        if reply.cut and index == len(pieces) - 1:
            return
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(reply.pause_s)
