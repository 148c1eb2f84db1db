"""Reads a JSON body that nobody vouches for: bounded in size, depth and number of values, and free of what parsers disagree about."""

import asyncio
import contextlib
import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from gateway.problems import FieldError, Loc, Problem, field_problem, invalid

MAX_LEVELS = 64
MAX_VALUES = 100_000  # twice as many as the largest metadata, the largest options and a thousand links have together
_JSON_TYPES = {"application/json", "text/json"}
# A client that is still sending when it is refused would see a reset connection, not the answer: what it sends is thrown away for a while.
_DISCARD_BYTES = 256 << 20
_DISCARD_S = 5.0
_DISCARD_PAUSE_S = 0.3
_LONGEST_PAUSE_S = 60.0
JSON_PATIENCE = timedelta(minutes=2)  # the largest that is taken by default at 280 kbit/s


class BoundedBody:
    """A request's body in chunks, as an async iterator: at most `max_bytes`, no pause longer than a minute, the end `within` a time.

    Raises Problem: PAYLOAD_TOO_LARGE, before the first byte where the length was announced; VALIDATION_FAILED when the client leaves.
    """

    def __init__(self, request: Request, max_bytes: int, within: timedelta) -> None:
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + within.total_seconds()
        self._chunks = request.stream()
        self._max_bytes = max_bytes
        self._size = 0
        self._announced = _announced_bytes(request)

    def __aiter__(self) -> "BoundedBody":
        return self

    async def __anext__(self) -> bytes:
        if self._announced > self._max_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout_at(min(self._deadline, self._clock() + _LONGEST_PAUSE_S)):
                chunk = await anext(self._chunks)
        except TimeoutError:
            raise field_problem("VALIDATION_FAILED", ("body",), "the body did not arrive in time", "timeout") from None
        except ClientDisconnect:  # nobody hears this answer; logs and metrics tell whose mistake it was
            raise field_problem("VALIDATION_FAILED", ("body",), "the connection ended before the body did", "disconnected") from None
        self._size += len(chunk)
        if self._size > self._max_bytes:
            raise self._too_large()
        return chunk

    async def discard(self) -> None:
        """Throws away what a refused client is still sending, within limits of size and time."""
        size, deadline = 0, self._clock() + _DISCARD_S
        with contextlib.suppress(TimeoutError, ClientDisconnect):
            while size < _DISCARD_BYTES and self._clock() < deadline:
                async with asyncio.timeout(_DISCARD_PAUSE_S):
                    chunk = await anext(self._chunks, None)
                if chunk is None:
                    return
                size += len(chunk)

    def _too_large(self) -> Problem:
        return Problem("PAYLOAD_TOO_LARGE", f"The body may have {self._max_bytes} bytes.")


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body, which has to be here within two minutes. Raises Problem, and keeps nothing of one that is longer."""
    body, chunks = BoundedBody(request, max_bytes, JSON_PATIENCE), []
    try:
        async for chunk in body:
            chunks.append(chunk)
    except Problem:
        chunks.clear()
        await body.discard()
        raise
    return b"".join(chunks)


def _announced_bytes(request: Request) -> int:
    announced = request.headers.get("content-length", "")
    return int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 20 else 0


def require_json(request: Request) -> None:
    """Raises UNSUPPORTED_MEDIA_TYPE for a body that says to be something else."""
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if content_type not in _JSON_TYPES and not content_type.endswith("+json"):
        raise Problem("UNSUPPORTED_MEDIA_TYPE", "Send the request as application/json.")


def parse_object(text: bytes, loc: Loc = ("body",)) -> dict[str, Any]:
    """The JSON object in `text`. Raises VALIDATION_FAILED for anything else, and for values that JSON's readers disagree about."""
    _refuse_many_values(text, loc)
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError:  # the parser's own limit lies far above ours
        raise field_problem("VALIDATION_FAILED", loc, f"the body is nested deeper than {MAX_LEVELS} levels", "too_deep") from None
    except ValueError as error:
        raise field_problem("VALIDATION_FAILED", loc, f"the body is not JSON in UTF-8: {_reason(error)}", "json_invalid") from None
    if not isinstance(value, dict):
        raise field_problem("VALIDATION_FAILED", loc, "the body must be a JSON object", "object_type")
    _refuse_odd_values(value, [*loc])
    return value


def _refuse_many_values(text: bytes, loc: Loc) -> None:
    """Before a single one is made: each takes some ten times the memory of its text. What may stand before one is counted, in texts too."""
    if text.count(b",") + text.count(b"[") + text.count(b"{") > MAX_VALUES:
        raise field_problem("VALIDATION_FAILED", loc, f"the body has more than {MAX_VALUES} commas and opening brackets", "too_long")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two values with one name some readers take the first, some the last."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("an object has a name twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _reason(error: ValueError) -> str:
    return "it cannot be decoded" if isinstance(error, UnicodeDecodeError) else str(error)[:200]


def _refuse_odd_values(value: dict[str, Any] | list[Any], place: list[str | int], level: int = 1) -> None:
    """Walks everything once. `place`, where `value` is, grows and shrinks on the way; never further down than our limit."""
    entries: Iterable[tuple[str | int, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in entries:
        place.append(name)
        if fault := _fault_of(name, level) or _fault_of(inner, level):
            raise invalid([FieldError(loc=[_shown(part) for part in place], msg=fault, type="value_error")])
        if isinstance(inner, dict | list):
            _refuse_odd_values(inner, place, level + 1)
        place.pop()


def _fault_of(value: Any, level: int) -> str | None:
    if level > MAX_LEVELS:
        return f"nested deeper than {MAX_LEVELS} levels"
    if isinstance(value, float) and value in {float("inf"), float("-inf")}:
        return "a number is too large"
    if isinstance(value, str) and not is_plain_text(value):
        return "text may not contain NUL or half of a surrogate pair"
    return None


def is_plain_text(text: str) -> bool:
    """Whether every encoder and database takes this text."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(part: str | int) -> str | int:
    return part.encode(errors="replace").decode().replace("\0", "?")[:100] if isinstance(part, str) else part


def levels_of(value: Any) -> int:
    """How deep containers are nested: 0 for a number, 1 for `{}`, 2 for `{"a": []}`."""
    deepest, waiting = 0, [(value, 0)]
    while waiting:
        inner, level = waiting.pop()
        if isinstance(inner, dict | list):
            deepest = max(deepest, level + 1)
            waiting += [(child, level + 1) for child in (inner.values() if isinstance(inner, dict) else inner)]
    return deepest
