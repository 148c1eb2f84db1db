"""What comes before a request is known: its line and its headers, from whoever can reach the port.

uvicorn bounds neither their size nor their time.
"""

import asyncio
from datetime import timedelta

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10  # as much as other servers take; what arrives in one piece, at most 256 KiB, is only counted afterwards
HEAD_PATIENCE = timedelta(seconds=20)  # a client on a poor line needs one or two


class BoundedHeads(HttpToolsProtocol):
    """HTTP/1.1 that answers 431 to a head without end, and 408 to one that does not come to its end."""

    _has_head = False  # of the request that arrives
    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is waited for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads on, unless the head has become too long."""
        had_head = self._has_head
        super().data_received(data)
        if self._has_head or had_head or self.transport.is_closing() or self.transport.get_protocol() is not self:  # a WebSocket by now
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")
        elif self._deadline is None:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        """The request is known."""
        self._has_head = True
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What comes next is another request."""
        self._has_head, self._head_bytes = False, 0
        super().on_message_complete()

    def _wait_for_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_PATIENCE.total_seconds(), self._lose_patience)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _lose_patience(self) -> None:
        self._deadline = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_for_head()  # of the next request: the answer to this one goes on
        elif not self.transport.is_closing():
            self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        """Where an answer to an earlier request is under way, the connection just ends."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()
