"""The HTTP server around the application, the same in the mesh and embedded."""

import contextlib
import gc
import logging
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from gateway.heads import BoundedHeads
from gateway.live import LiveFeed
from gateway.settings import GatewaySettings

MAX_SOCKET_MESSAGE_BYTES = 64 << 10  # nothing that a watcher says matters


def _is_no_refusal(record: logging.LogRecord) -> bool:
    """uvicorn calls it an error when a socket is refused with a status; whoever tries keys would fill the log with errors."""
    return "without completing handshake" not in record.getMessage()


class Server(uvicorn.Server):
    """Ends on SIGTERM and Ctrl-C: streams of live events first, since they would go on for as long as their jobs.

    uvicorn's own raises the signal again once it is done, and the process is gone before whoever serves has cleaned up.
    """

    def __init__(self, config: uvicorn.Config, feed: LiveFeed) -> None:
        super().__init__(config)
        self._feed = feed

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A signal is heard once; a second one, during the clean-up that follows, ends the process as it always does."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Returns once requests are taken. What is there by then stays until the end, and is kept from the garbage collector.

        A full collection would look through all of it, a tenth of a second every few seconds under load, and answer nobody meanwhile.
        """
        await super().startup(sockets)
        gc.collect()
        gc.freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes nothing more, and lets requests under way finish within the grace period."""
        await self._feed.close()
        await super().shutdown(sockets)


def server_of(app: FastAPI, settings: GatewaySettings) -> Server:
    """A server that listens once it is served. A port of 0 takes any free one."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=BoundedHeads,
        log_config=None,
        access_log=False,  # the gateway logs requests itself, without the signatures in their queries
        server_header=False,
        ws_max_size=MAX_SOCKET_MESSAGE_BYTES,
        timeout_graceful_shutdown=int(settings.grace_s),
    )
    logging.getLogger("uvicorn.error").addFilter(_is_no_refusal)
    return Server(config, app.state.parts.feed)
