"""The HTTP server around the application, the same in the mesh and embedded."""

import uvicorn
from fastapi import FastAPI

from gateway.settings import GatewaySettings

MAX_SOCKET_MESSAGE_BYTES = 64 << 10  # nothing that a watcher says matters


def server_of(app: FastAPI, settings: GatewaySettings) -> uvicorn.Server:
    """A server that listens once it is served. A port of 0 takes any free one."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # the gateway logs requests itself, without the signatures in their queries
        server_header=False,
        ws_max_size=MAX_SOCKET_MESSAGE_BYTES,
        timeout_graceful_shutdown=int(settings.grace_s),
    )
    return uvicorn.Server(config)
