"""A caller with many connections, cheap enough to share two cores with what it measures.

python -m tests.benchmarks.load.generator --port 8000 --key KEY --jobs 5000 --rate 500 < body.json

Prints one JSON object. With a rate, requests are due at even moments whether or not earlier ones were answered, and a request's time
counts from the moment at which it was due: a gateway that stalls is not spared the requests that it kept from being sent. Without one,
each connection sends as soon as it was answered.
"""

import argparse
import asyncio
import json
import sys
import time
import uuid
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import cast

import uvloop

_HEADERS_END = b"\r\n\r\n"
_WARMTH_S = 0.5  # connections are open by then


@dataclass(frozen=True)
class Load:
    """What is sent to 127.0.0.1. `rate` is in requests a second; 0: as fast as `connections` are answered."""

    port: int
    key: str
    jobs: int
    rate: float
    connections: int


@dataclass(frozen=True)
class Measured:
    """What came of it. Times in milliseconds, CPU in seconds of the generator's own."""

    statuses: dict[int, int]
    seconds: float
    p50_ms: float
    p99_ms: float
    longest_ms: float
    cpu_s: float


class Connection(asyncio.Protocol):
    """One request at a time over one kept-alive connection."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one, and does not say so

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(_HEADERS_END)
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self._received) < end + len(_HEADERS_END) + length:
            return
        self._received.clear()
        assert self._answer is not None
        self._answer.set_result(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)

    async def ask(self, request: bytes) -> int:
        """The status of the answer; 0 where the connection broke."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer


def request_of(load: Load, body: bytes) -> bytes:
    """A new job, as a careful caller asks for one: with an Idempotency-Key that no other has."""
    lines = (
        "POST /api/v1/reconstruct HTTP/1.1",
        f"Host: 127.0.0.1:{load.port}",
        f"X-API-Key: {load.key}",
        f"Idempotency-Key: {uuid.uuid4()}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join(lines).encode() + _HEADERS_END + body


async def drive(load: Load, body: bytes) -> Measured:
    """Sends every job and waits for every answer."""
    loop = asyncio.get_running_loop()
    connections = [(await loop.create_connection(Connection, "127.0.0.1", load.port))[1] for _ in range(load.connections)]
    began = loop.time() + _WARMTH_S
    due = deque(began + (index / load.rate if load.rate else 0.0) for index in range(load.jobs))
    statuses: Counter[int] = Counter()
    times: list[float] = []

    async def work(connection: Connection) -> None:
        while due:
            moment = due.popleft()
            if moment > loop.time():
                await asyncio.sleep(moment - loop.time())
            moment = moment if load.rate else loop.time()
            statuses[await connection.ask(request_of(load, body))] += 1
            times.append(loop.time() - moment)

    cpu = time.process_time()
    await asyncio.gather(*(work(connection) for connection in connections))
    seconds = loop.time() - began
    times.sort()
    p50, p99 = (times[int(share * (len(times) - 1))] * 1e3 for share in (0.5, 0.99))
    return Measured(dict(statuses), seconds, p50, p99, times[-1] * 1e3, time.process_time() - cpu)


def main() -> None:
    """Reads the body from stdin, prints what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--connections", type=int, default=64)
    measured = uvloop.run(drive(Load(**vars(parser.parse_args())), sys.stdin.buffer.read()))
    print(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
