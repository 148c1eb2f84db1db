"""One guarded POST, bounded in time and in what is read of the answer."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Protocol

import httpx

from shared.http.addresses import AddressPolicy, check_url
from shared.http.errors import TimedOut, Unreachable
from shared.http.guarded import Resolver, guarded_client, reasons, resolve

HEAR_OUT_S = 2.0


@dataclass(frozen=True)
class Answer:
    """What a server said to a POST, so far as it matters."""

    status_code: int
    retry_after: str | None = None  # the header as sent


class Poster(Protocol):
    """Who makes the calls; tests script one."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Raises UnsafeAddress, TimedOut or Unreachable."""

    async def close(self) -> None: ...


class GuardedPoster:
    """A `Poster` on the network. Reads at most `max_answer_bytes` of an answer, and keeps none of them.

    poster = GuardedPoster(AddressPolicy.parse(settings.allowed_private_networks), timeout_s=15.0)
    answer = await poster.post(url, body, {"content-type": "application/json"})
    """

    def __init__(
        self,
        policy: AddressPolicy,
        timeout_s: float = 15.0,
        max_answer_bytes: int = 20_000,
        resolver: Resolver = resolve,
        connections: int = 64,
    ) -> None:
        self._policy = policy
        self._timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes
        # No connection is kept: one that the server has just closed would fail a call that nobody repeats at once.
        self._client = guarded_client(policy, httpx.Timeout(timeout_s), resolver, connections, kept_alive=0)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """The call, from the look-up of the name to the answer's headers, within the timeout; the body has `HEAR_OUT_S` more."""
        try:
            check_url(url, self._policy)
        except ValueError as error:
            raise Unreachable(str(error)) from error
        with reasons():
            response = await self._answered(url, body, headers)
        await self._hear_out(response)
        return Answer(response.status_code, response.headers.get("retry-after"))

    async def close(self) -> None:
        """Closes the connections that are kept open."""
        await self._client.aclose()

    async def _answered(self, url: str, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
        """The answer as far as its headers; its body has not been read."""
        request = self._client.build_request("POST", url, content=body, headers=dict(headers))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._client.send(request, stream=True)
        except TimeoutError as error:
            raise TimedOut(f"no answer within {self._timeout_s:g} s") from error

    async def _hear_out(self, response: httpx.Response) -> None:
        """Lets the server finish a short answer, and closes. The status has been said: nothing that happens now changes it."""
        heard = 0
        with suppress(Exception):
            async with asyncio.timeout(HEAR_OUT_S), aclosing(response):
                async for chunk in response.aiter_raw():
                    heard += len(chunk)
                    if heard > self._max_answer_bytes:
                        return
