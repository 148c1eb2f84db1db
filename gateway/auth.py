"""The key at the door, looked at before anything else of a request is."""

import re
from collections.abc import Iterable
from itertools import islice
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import tenants
from gateway.problems import Problem
from gateway.tenants import Caller, Tenants

SUBPROTOCOL_PREFIX = "meshwork.key."
MAX_OFFERED_KEYS = 4  # a browser offers one; each is compared with every key that we know
_LINK = re.compile(r"/api/v1/jobs/[^/]+/artifacts/[^/]+")
_SUBMITS = re.compile(r"/api/v1/(reconstruct|jobs|jobs/[^/]+/(cancel|retry))")
_READS = {"GET", "HEAD", "OPTIONS"}


def caller_of_headers(known: Tenants, headers: Headers) -> Caller | None:
    """Whose key is in `X-API-Key` or `Authorization: Bearer`."""
    candidates = [headers.get("x-api-key", "")]
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        candidates.append(token.strip())
    return _first(known, candidates)


def caller_of_subprotocols(known: Tenants, subprotocols: Iterable[str]) -> Caller | None:
    """Whose key a browser sent as a WebSocket subprotocol, among the first that look like one."""
    offered = (s.removeprefix(SUBPROTOCOL_PREFIX) for s in subprotocols if s.startswith(SUBPROTOCOL_PREFIX))
    return _first(known, islice(offered, MAX_OFFERED_KEYS))


def _first(known: Tenants, candidates: Iterable[str]) -> Caller | None:
    found = [caller for candidate in candidates if (caller := known.caller_of(candidate)) is not None]
    return found[-1] if found else None


class KeyRequired:
    """Lets nobody below /api without a key whose scope suffices, except along a signed link, whose signature its route checks."""

    def __init__(self, app: ASGIApp, known: Tenants) -> None:
        self.app = app
        self._known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401 or 403 without reading the body, or passes the request on with its tenant."""
        if scope["type"] == "http" and scope["path"].startswith("/api/"):
            caller, needed = caller_of_headers(self._known, Headers(scope=scope)), scope_of(scope["method"], scope["path"])
            may = caller is not None and caller.may(needed)
            if not may and not _is_signed_link(scope):
                await (unauthenticated() if caller is None else forbidden(needed)).send_to(scope, receive, send)
                return
            scope.setdefault("state", {})["tenant"] = caller.tenant if caller is not None and may else None
        await self.app(scope, receive, send)


def scope_of(method: str, path: str) -> tenants.Scope:
    """What a key must be for. A call that nobody thought of asks for the most."""
    if method in _READS:
        return "read"
    return "submit" if method == "POST" and _SUBMITS.fullmatch(path) else "admin"


def unauthenticated() -> Problem:
    """The 401."""
    return Problem("UNAUTHENTICATED", headers={"WWW-Authenticate": "Bearer"})


def forbidden(needed: tenants.Scope) -> Problem:
    """The 403."""
    return Problem("FORBIDDEN", f"This call needs a key with the scope {needed!r}.")


def _is_signed_link(scope: Scope) -> bool:
    if scope["method"] not in {"GET", "HEAD"} or not _LINK.fullmatch(scope["path"]):
        return False
    return "signature" in parse_qs(scope["query_string"].decode("ascii", "replace"))  # as text: parsed bytes may hold nothing but ASCII


async def require_tenant(request: Request) -> str:
    """The tenant who asks. Raises Problem where KeyRequired let somebody through without a key."""
    tenant: str | None = getattr(request.state, "tenant", None)
    if tenant is None:
        raise unauthenticated()
    return tenant


Tenant = Annotated[str, Depends(require_tenant)]
