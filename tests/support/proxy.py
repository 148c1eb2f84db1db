"""A scriptable TCP proxy: what networks do to connections, done on purpose.

async with TcpProxy("127.0.0.1", 5672) as proxy:
    broker = RabbitBroker(f"amqp://…@127.0.0.1:{proxy.port}/test", "worker")
    proxy.cut()
"""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 1 << 16


class TcpProxy:
    """Forwards connections from a free local port to a server, until told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self.port = 0
        self.connections = 0  # so far
        self.delay_s = 0.0  # added to every chunk

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Resets every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def refuse(self) -> None:
        """Resets every connection, and each new one at once."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        """Takes connections again."""
        self._refusing = False

    def stall(self) -> None:
        """Forwards nothing, in either direction; nobody is told."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forwards again, what was held back first."""
        self._flowing.set()

    def half_close(self) -> None:
        """Ends the sending side of every connection; the other direction stays open."""
        for writer in self._writers:
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._refusing:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        for source, target in ((reader, server_writer), (server_reader, writer)):
            self._writers.add(target)
            task = asyncio.create_task(self._forward(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: `half_close` ended this direction, and more came
            while chunk := await source.read(_CHUNK_BYTES):
                await self._flowing.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                target.write(chunk)
                await target.drain()
        self._writers.discard(target)
        target.close()
