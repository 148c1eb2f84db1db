"""What the archives and videos of one job may hold."""

from dataclasses import dataclass


class UnusableBundleError(Exception):
    """The whole archive or video is dropped; `code` says why."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


@dataclass
class Room:
    """What they may still hold, all of them together; `photo_bytes` each photo."""

    photos: int
    bytes: int
    photo_bytes: int

    def take(self, size: int) -> None:
        """So many bytes came out. Raises UnusableBundleError."""
        self.bytes -= size
        if self.bytes < 0:
            raise UnusableBundleError("ARCHIVE_TOO_LARGE")
