"""What can go wrong with a request to an address that a caller named.

MeshworkError
├── UnsafeAddress    (shared/errors.py) it leads to an address that callers may not reach
├── TooLarge         it sends more than we take
├── NoRoomLeft       it sends more than others have left of what they share
├── TimedOut         it did not answer, or not to the end, in time
└── Unreachable      no connection, or no answer that we can use
"""

from shared.errors import MeshworkError


class TooLarge(MeshworkError):
    """The answer is larger than the limit."""


class NoRoomLeft(MeshworkError):
    """The answer is larger than what other downloads left of what they share."""


class TimedOut(MeshworkError):
    """The server did not answer in time."""


class Unreachable(MeshworkError):
    """The server could not be reached, or its answer is none that we can use.

    `may_pass`: whether the same request may succeed in a moment (no connection, 5xx, 429). `status_code`: what it answered, if it did.
    """

    def __init__(self, message: str, may_pass: bool = False, status_code: int | None = None) -> None:
        self.may_pass = may_pass
        self.status_code = status_code
        super().__init__(message)
