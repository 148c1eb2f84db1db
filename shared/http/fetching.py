"""Downloads from URLs that callers named: guarded at every hop, bounded in bytes and in time.

async with guarded_client(policy, download_timeout(limits)) as client:
    fetched = await fetch(client, url, Path("photo"), policy, limits)
"""

import asyncio
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import httpx
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential

from shared.http.addresses import AddressPolicy, check_url
from shared.http.errors import NoRoomLeft, TimedOut, TooLarge, Unreachable
from shared.http.guarded import location_of, reasons

_CHUNK_BYTES = 64 << 10
_REDIRECTS = {301, 302, 303, 307, 308}


@dataclass(frozen=True)
class FetchLimits:
    """What one download may take."""

    max_bytes: int = 64 << 20
    total_s: float = 120.0  # everything: redirects, retries, and a server that sends a byte now and then
    connect_s: float = 10.0
    read_s: float = 20.0
    max_redirects: int = 5
    tries: int = 3  # where no connection was made, it broke, or the answer was 5xx or 429
    pause_s: float = 0.5  # before the second try, doubled before each further one


@dataclass
class SharedRoom:
    """Bytes that several downloads may still bring, all of them together."""

    bytes: int

    @contextmanager
    def of_one(self) -> Iterator[Callable[[int], None]]:
        """Takes the bytes of one file as they arrive, and has them back if it fails. What is yielded raises NoRoomLeft."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if size > self.bytes:
                raise NoRoomLeft("all files together are larger than the limit")
            self.bytes -= size
            taken += size

        try:
            yield take
        except BaseException:
            self.bytes += taken
            raise


@dataclass(frozen=True)
class Fetched:
    """A file that was downloaded. `url` is where it came from after redirects; `content_type` is what the server claims."""

    path: Path
    bytes: int
    sha256: str
    content_type: str
    url: str


def download_timeout(limits: FetchLimits) -> httpx.Timeout:
    """Per operation; the total is kept by `fetch`."""
    return httpx.Timeout(limits.read_s, connect=limits.connect_s)


async def fetch(
    client: httpx.AsyncClient,
    url: str,
    path: Path,
    policy: AddressPolicy,
    limits: FetchLimits = FetchLimits(),
    limits_of: Callable[[bytes], FetchLimits] | None = None,
    room: SharedRoom | None = None,
) -> Fetched:
    """Downloads to `path`, which exists afterwards only when the download is complete.

    `limits_of`: the bytes and the time that a file may take once its first bytes tell what it is. `room`: what is left of a limit for many.
    Raises UnsafeAddress, TooLarge, NoRoomLeft, TimedOut or Unreachable. An OSError is of the local disk.
    """
    room = room or SharedRoom(sys.maxsize)
    began, total_s = asyncio.get_running_loop().time(), limits.total_s
    retrying = AsyncRetrying(
        stop=stop_after_attempt(limits.tries),
        wait=wait_exponential(multiplier=limits.pause_s),
        retry=retry_if_exception(lambda error: isinstance(error, Unreachable) and error.may_pass),
        reraise=True,
    )
    try:
        async with asyncio.timeout(total_s) as clock:

            def most_bytes(head: bytes) -> int:
                nonlocal total_s
                found = limits_of(head) if limits_of else limits
                total_s = found.total_s
                clock.reschedule(began + total_s)
                return found.max_bytes

            return await retrying(_follow, client, url, path, policy, limits.max_redirects, most_bytes, room)
    except TimeoutError as error:
        raise TimedOut(f"the download took longer than {total_s:g} s") from error


async def _follow(
    client: httpx.AsyncClient,
    url: str,
    path: Path,
    policy: AddressPolicy,
    max_redirects: int,
    most_bytes: Callable[[bytes], int],
    room: SharedRoom,
) -> Fetched:
    for _ in range(max_redirects + 1):
        _check(url, policy)
        with reasons():
            async with client.stream("GET", url) as response:
                if response.status_code not in _REDIRECTS:
                    return await _save(response, path, most_bytes, room)
                url = _joined(url, location_of(response))
    raise Unreachable(f"more than {max_redirects} redirects")


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise Unreachable("the server redirects to what is no URL") from error


def _check(url: str, policy: AddressPolicy) -> None:
    try:
        check_url(url, policy)
    except ValueError as error:
        raise Unreachable(str(error)) from error


async def _save(response: httpx.Response, path: Path, most_bytes: Callable[[bytes], int], room: SharedRoom) -> Fetched:
    status = response.status_code
    if status != 200:
        raise Unreachable(f"the server answered {status}", may_pass=status >= 500 or status == 429, status_code=status)
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise Unreachable("the answer is compressed although nobody asked for it")  # a few bytes may unpack to anything
    part = path.parent / f".{os.urandom(8).hex()}.part"
    try:
        with room.of_one() as take:
            size, sha256 = await _write(response, part, most_bytes, take)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return Fetched(path, size, sha256, response.headers.get("content-type", ""), str(response.url))


def _announced_bytes(response: httpx.Response) -> int:
    announced = response.headers.get("content-length", "0")
    return int(announced) if announced.isdecimal() else 0


async def _write(response: httpx.Response, part: Path, most_bytes: Callable[[bytes], int], take: Callable[[int], None]) -> tuple[int, str]:
    digest, size, max_bytes = hashlib.sha256(), 0, 0
    with part.open("xb") as file:  # a chunk of this size costs less than a switch to a thread
        async for chunk in response.aiter_raw(_CHUNK_BYTES):
            if size == 0:
                max_bytes = most_bytes(chunk)
            size += len(chunk)
            if max(size, _announced_bytes(response)) > max_bytes:
                raise TooLarge(f"the file is larger than {max_bytes} bytes")
            take(len(chunk))
            digest.update(chunk)
            file.write(chunk)
    return size, digest.hexdigest()
