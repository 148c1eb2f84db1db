"""What every answer carries, and what is written down about it."""

from collections.abc import Callable

from loguru import logger
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# method, route template, status, seconds
Observe = Callable[[str, str, int, float], None]

_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
_API_POLICY = "default-src 'none'; frame-ancestors 'none'"
_CONSOLE_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; frame-ancestors 'none'"
_PROBES = {"/livez", "/readyz", "/metrics"}


class Answers:
    """Adds security headers; measures and logs every request, without its query, which may hold a signature."""

    def __init__(self, app: ASGIApp, observe: Observe, clock: Callable[[], float]) -> None:
        self.app = app
        self._observe = observe
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 499, self._clock()  # 499: the client left before an answer

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), scope["path"])
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            self._note(scope, status, self._clock() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        self._observe(scope["method"], route, status, seconds)
        level = "DEBUG" if scope["path"] in _PROBES else "INFO"
        logger.log(level, "{} {} {} in {:.0f} ms", scope["method"], _logged(scope), status, seconds * 1000)


def _logged(scope: Scope) -> str:
    """The path as it was sent, percent-encoded: nobody writes lines of their own into our log."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode("ascii", "backslashreplace")
    return raw.partition(b"?")[0].decode("ascii", "backslashreplace")[:500]


def _add_headers(headers: MutableHeaders, path: str) -> None:
    for name, value in _SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if path.startswith("/api/"):
        headers.setdefault("Content-Security-Policy", _API_POLICY)
        headers.setdefault("Cache-Control", "no-store")
    elif path.startswith("/console"):
        headers.setdefault("Content-Security-Policy", _CONSOLE_POLICY)
