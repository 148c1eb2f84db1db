"""Queries as URLs allow them: whoever sends other bytes is answered like everybody else."""

import string
from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

_ALLOWED = "".join(sorted(set(string.printable) - set(string.whitespace)))


class PlainQueries:
    """Percent-encodes what no URL may hold; what reads queries further in may take them for ASCII."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if not (query := scope.get("query_string", b"")).isascii():
            scope["query_string"] = quote(query, safe=_ALLOWED).encode()
        await self.app(scope, receive, send)
