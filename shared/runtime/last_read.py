"""What a worker read last, for its next delivery: parts of one round name the same split, and are computed from the same steps."""

from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar, cast

Value = TypeVar("Value")


class LastRead:
    """The last thing of each kind. Only for what never changes once it is written."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Hashable, object]] = {}

    async def get(self, kind: str, name: Hashable, read: Callable[[], Awaitable[Value]]) -> Value:
        """What `read` gives, or gave when this name was asked for last. Raises what it raises."""
        known = self._last.get(kind)
        if known is not None and known[0] == name:
            return cast(Value, known[1])
        value = await read()
        self._last[kind] = (name, value)
        return value
