"""What whoever can reach the port may send and keep open: the line and the headers of a request, and what follows one that was answered.

uvicorn bounds neither their size nor their number nor their time.
"""

import asyncio
from datetime import timedelta

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10  # as much as other servers take; what arrives in one piece, at most 256 KiB, is only counted afterwards
MAX_HEADERS = 200  # each takes some hundred bytes, however short it is
MAX_AHEAD = 16  # requests sent before the one ahead of them is answered; clients send none
HEAD_PATIENCE = timedelta(seconds=20)  # a client on a poor line needs one or two


class BoundedHeads(HttpToolsProtocol):
    """HTTP/1.1 that answers 431 to a head without end, and 408 to one that does not come to its end.

    Trailers, which come behind a body, are passed over and bounded alike. Who is answered before the whole body has come, as anybody
    without a key is, has as long for the rest of it and the next head as for a head.
    """

    _has_head = False  # of the request that arrives
    _head_bytes = 0  # since the last request ended, or since the last piece of a body
    _has_body = False  # in what arrived last
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
        """Reads on, unless the head or the trailers have become too long."""
        had_head, self._has_body = self._has_head, False
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:  # a WebSocket by now
            return
        if self._has_body or self._has_head != had_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")
        elif self._deadline is None and not self._has_head:
            self._wait_for_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps it, unless it is a trailer, which nobody reads, or one too many."""
        if self._has_head:
            return
        if len(self.headers) == MAX_HEADERS:
            self._refuse(b"431 Request Header Fields Too Large")
            raise ValueError("too many headers")  # ends the parsing
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is known."""
        self._has_head, self._head_bytes = True, 0
        self._stop_waiting()
        if len(self.pipeline) == MAX_AHEAD:
            self.transport.close()
            raise ValueError("too many requests ahead of their answers")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._has_body, self._head_bytes = True, 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """What comes next is another request."""
        self._has_head, self._head_bytes = False, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """For what cannot be parsed, and was not refused by us."""
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def on_response_complete(self) -> None:
        """Whose answer did not need the whole body may keep the connection by sending it, but not for long."""
        super().on_response_complete()
        if self._has_head and self._deadline is None and self.cycle.response_complete and not self.transport.is_closing():
            self._wait_for_head()

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
        """Where an answer is under way, or has been given to this very request, the connection just ends."""
        if not self._has_head and (self.cycle is None or self.cycle.response_complete):
            self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()
