"""Every connection that this process tries, seen where Python hands it to the kernel; none leaves this machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_listening: list[list[tuple[str, int]]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event != "socket.connect" or not _listening:
        return
    address = arguments[1]
    if not isinstance(address, tuple):
        raise ConnectionRefusedError("no test reaches a socket of this machine")
    host, port = str(address[0]), int(address[1])
    _listening[-1].append((host, port))
    if host != "127.0.0.1":  # also what the guard may reach: tests speak to loopback alone
        raise ConnectionRefusedError(f"a test tried {host}")


sys.addaudithook(_hook)  # for good: hooks cannot be removed, this one sleeps between tests


@contextmanager
def recorded_connections() -> Iterator[list[tuple[str, int]]]:
    """(address, port) of every connect inside, allowed or not; all but those to 127.0.0.1 are refused.

    with recorded_connections() as tried:
        ...
    assert tried == []
    """
    tried: list[tuple[str, int]] = []
    _listening.append(tried)
    try:
        yield tried
    finally:
        _listening.pop()
