"""At most so many requests a minute per tenant and replica: a bucket that refills steadily. Off by default."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.problems import Problem


@dataclass
class _Bucket:
    tokens: float
    filled_at: float


class Rates:
    """Every tenant's bucket."""

    def __init__(self, limit_of: Callable[[str], int]) -> None:
        self._limit_of = limit_of
        self._buckets: dict[str, _Bucket] = {}

    def count(self, tenant: str) -> None:
        """One more request. Raises Problem RATE_LIMITED, with the seconds until the next may come."""
        if per_minute := self._limit_of(tenant):
            wait_s = self._seconds_to_wait(tenant, per_minute, asyncio.get_running_loop().time())
            if wait_s > 0:
                headers = {"Retry-After": str(math.ceil(wait_s))}
                raise Problem("RATE_LIMITED", f"At most {per_minute} requests a minute.", headers=headers)

    def _seconds_to_wait(self, tenant: str, per_minute: int, now: float) -> float:
        """Takes a token; 0 when there was one, else the time until the next."""
        rate = per_minute / 60.0
        bucket = self._buckets.setdefault(tenant, _Bucket(float(per_minute), now))
        bucket.tokens = min(float(per_minute), bucket.tokens + (now - bucket.filled_at) * rate)
        bucket.filled_at = now
        if bucket.tokens < 1.0:
            return (1.0 - bucket.tokens) / rate
        bucket.tokens -= 1.0
        return 0.0


class RateLimit:
    """Answers RATE_LIMITED to a tenant whose bucket is empty. Stands behind KeyRequired, so that a stranger empties nobody's bucket.

    WebSockets are counted by their route, which knows whose they are.
    """

    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self.app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 429 with Retry-After."""
        tenant = scope.get("state", {}).get("tenant") if scope["type"] == "http" else None
        try:
            if tenant:
                self._rates.count(tenant)
        except Problem as problem:
            await problem.send_to(scope, receive, send)
            return
        await self.app(scope, receive, send)
