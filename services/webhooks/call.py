"""One call: sign, post, and say what came of it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from services.webhooks.prepare import Prepared
from services.webhooks.retry_after import seconds_of
from services.webhooks.signing import signed_headers
from shared.errors import UnsafeAddress
from shared.http.errors import TimedOut, Unreachable
from shared.http.posting import Answer, Poster
from shared.sealing import SealError, unseal

Clock = Callable[[], datetime]

_THROTTLED = {429, 503}
_ERROR_CHARACTERS = 300


@dataclass(frozen=True)
class Called:
    """A call that ended. `error` is None exactly when the receiver took it; `retry_after_s` is what a throttling one asked for.

    `gone`: it answered 410. `lost`: nobody knows what it answered, because making the call ended the service several times.
    `body_damaged`: it was not made, and the gateway must store the body again.
    """

    at: datetime
    status_code: int | None = None
    error: str | None = None
    gone: bool = False
    lost: bool = False
    body_damaged: bool = False
    retry_after_s: float | None = None


def utc_now() -> datetime:
    """The wall clock, which receivers compare timestamps with."""
    return datetime.now(UTC)


async def call(prepared: Prepared, http: Poster, seal_key: str, clock: Clock = utc_now) -> Called:
    """Makes the call once. Every failure is an answer: nothing is raised for what the receiver, the network or the secrets do."""
    at, message = clock(), prepared.message
    try:
        secrets = unseal(message.sealed_secrets, seal_key)
        headers = signed_headers(message.delivery_id, prepared.body, secrets, at)
        return heard(await http.post(message.url, prepared.body, headers), at)
    except (UnsafeAddress, TimedOut, Unreachable, SealError) as error:
        return Called(at, error=str(error)[:_ERROR_CHARACTERS])


def heard(answer: Answer, at: datetime) -> Called:
    """What an answer means: 2xx is success, anything else is not, a redirect least of all."""
    status = answer.status_code
    if 200 <= status < 300:
        return Called(at, status)
    if 300 <= status < 400:
        return Called(at, status, f"answered {status}; redirects are not followed")
    retry_after_s = seconds_of(answer.retry_after, at) if status in _THROTTLED else None
    return Called(at, status, f"answered {status}", gone=status == 410, retry_after_s=retry_after_s)
