"""What a caller's backend has: a server of photos, and a handler of webhooks that checks their signature."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import quote, unquote

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".heic"}


@dataclass(frozen=True)
class Received:
    """One webhook as it arrived; `verified` tells whether its signature held."""

    webhook_id: str
    payload: dict[str, Any]
    verified: bool


@dataclass
class CallerBackend:
    """Serves the photos of a folder under `/photos/` and receives webhooks under `/hook`, on 127.0.0.1."""

    photos: Path
    secret: str
    webhooks: "Queue[Received]" = field(default_factory=Queue)
    answers: Iterator[int] = field(default_factory=lambda: iter(()))  # statuses of the first webhook calls; 204 when it runs out

    def __post_init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def photo_urls(self) -> list[str]:
        """One URL per photo, in the order of their names."""
        names = sorted(path.name for path in self.photos.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        return [f"{self.url}/photos/{quote(name)}" for name in names]

    def close(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._server.server_close()

    def _receive(self, headers: dict[str, str], body: bytes) -> None:
        try:
            payload = Webhook(self.secret).verify(body, headers)
            self.webhooks.put(Received(headers["webhook-id"], payload, verified=True))
        except (WebhookVerificationError, KeyError):
            self.webhooks.put(Received(headers.get("webhook-id", ""), json.loads(body), verified=False))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                path = backend.photos / Path(unquote(self.path)).name
                if not self.path.startswith("/photos/") or not path.is_file():
                    self.send_error(404)
                    return
                body = path.read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                backend._receive({name.lower(): value for name, value in self.headers.items()}, body)
                self.send_response(next(backend.answers, 204))
                self.send_header("Content-Length", "0")
                self.end_headers()

        return Handler
