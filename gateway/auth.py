"""The key at the door, looked at before anything else of a request is."""

import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.problems import Problem

FIRST_TENANT = "default"
SUBPROTOCOL_PREFIX = "meshwork.key."
_LINK = re.compile(r"/api/v1/jobs/[^/]+/artifacts/[^/]+")


class Keys:
    """Which tenant a key belongs to; compared in constant time."""

    def __init__(self, tenant_by_key: Iterable[tuple[str, str]]) -> None:
        self._known = [(_digest(key.encode()), tenant) for key, tenant in tenant_by_key]

    def tenant_of(self, headers: Headers) -> str | None:
        """The tenant whose key is in `X-API-Key` or `Authorization: Bearer`."""
        candidates = [headers.get("x-api-key", "")]
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            candidates.append(token.strip())
        return self._first_tenant(candidates)

    def tenant_of_subprotocols(self, subprotocols: Iterable[str]) -> str | None:
        """The tenant whose key a browser sent as a WebSocket subprotocol."""
        return self._first_tenant([s.removeprefix(SUBPROTOCOL_PREFIX) for s in subprotocols if s.startswith(SUBPROTOCOL_PREFIX)])

    def _first_tenant(self, candidates: Iterable[str]) -> str | None:
        found = None
        for candidate in candidates:
            digest = _digest(candidate.encode("latin-1", "replace"))  # as header bytes arrive
            for known, tenant in self._known:
                if hmac.compare_digest(known, digest):
                    found = tenant
        return found


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class KeyRequired:
    """Lets nobody below /api without a key, except along a signed link, whose signature its route checks."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401 without reading the body, or passes the request on with its tenant."""
        if scope["type"] == "http" and scope["path"].startswith("/api/"):
            tenant = self._keys.tenant_of(Headers(scope=scope))
            if tenant is None and not _is_signed_link(scope):
                await unauthenticated().send_to(scope, receive, send)
                return
            scope.setdefault("state", {})["tenant"] = tenant
        await self.app(scope, receive, send)


def unauthenticated() -> Problem:
    """The 401."""
    return Problem("UNAUTHENTICATED", headers={"WWW-Authenticate": "Bearer"})


def _is_signed_link(scope: Scope) -> bool:
    if scope["method"] not in {"GET", "HEAD"} or not _LINK.fullmatch(scope["path"]):
        return False
    return "signature" in parse_qs(scope["query_string"].decode("ascii"))  # as text: parsed bytes may hold nothing but ASCII


def require_tenant(request: Request) -> str:
    """The tenant who asks. Raises Problem where KeyRequired let somebody through without a key."""
    tenant: str | None = getattr(request.state, "tenant", None)
    if tenant is None:
        raise unauthenticated()
    return tenant


Tenant = Annotated[str, Depends(require_tenant)]
