"""Gets the files as they were sent: downloads what has a URL, finds what was uploaded."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from services.ingest.settings import IngestSettings
from shared.bundles import is_bundle
from shared.contracts.request import ImageSource
from shared.errors import UnsafeAddress
from shared.http.addresses import AddressPolicy
from shared.http.errors import NoRoomLeft, TimedOut, TooLarge, Unreachable
from shared.http.fetching import FetchLimits, SharedRoom, download_timeout, fetch
from shared.http.guarded import guarded_client

_REASONS: dict[type[Exception], str] = {
    UnsafeAddress: "UNSAFE_URL",
    TooLarge: "IMAGE_TOO_LARGE",
    NoRoomLeft: "TOTAL_TOO_LARGE",
    TimedOut: "TIMED_OUT",
    Unreachable: "UNREACHABLE",
}


@dataclass(frozen=True)
class Original:
    """One file as received: where it lies and its sha256, or the reason why it does not. `index` counts in the order sent.

    `source`: the archive or video that it came out of. `expanded`: it was one, and what it held takes its place.
    """

    index: int
    name: str
    path: Path | None = None
    sha256: str = ""
    reason: str | None = None
    source: str | None = None
    expanded: bool = False


async def gather_originals(
    sources: tuple[ImageSource, ...], uploads: Path, folder: Path, settings: IngestSettings, on_each: Callable[[int], None]
) -> list[Original]:
    """Every file in the order sent. `on_each` is told how many have been settled."""
    policy = AddressPolicy.parse(settings.allowed_private_networks)
    limits = FetchLimits(max_bytes=settings.max_image_bytes, total_s=settings.photo_timeout.total_seconds())
    room = SharedRoom(settings.max_fetched_bytes)
    of_bundles = replace(limits, max_bytes=settings.max_archive_bytes, total_s=settings.archive_timeout.total_seconds())

    def limits_of(head: bytes) -> FetchLimits:
        return of_bundles if is_bundle(head) else limits

    gate, deadline = asyncio.Semaphore(settings.downloads), asyncio.get_running_loop().time() + settings.fetch_timeout.total_seconds()
    settled = 0

    async with guarded_client(policy, download_timeout(limits)) as client:

        async def get(index: int, source: ImageSource) -> Original:
            nonlocal settled
            path = folder / f"{index:04d}"
            async with gate:
                try:
                    async with asyncio.timeout_at(deadline):
                        original = (
                            await _downloaded(index, source, lambda url: fetch(client, url, path, policy, limits, limits_of, room))
                            if source.url
                            else _uploaded(index, source, uploads)
                        )
                except TimeoutError:
                    original = Original(index, source.name, reason="TIMED_OUT")
            settled += 1
            on_each(settled)
            return original

        return list(await asyncio.gather(*(get(index, source) for index, source in enumerate(sources))))


async def _downloaded(index: int, source: ImageSource, get: Callable[[str], object]) -> Original:
    try:
        fetched = await get(source.url)  # type: ignore[misc,arg-type]
    except tuple(_REASONS) as error:
        return Original(index, source.name, reason=_REASONS[type(error)])
    return Original(index, source.name, fetched.path, fetched.sha256)


def _uploaded(index: int, source: ImageSource, uploads: Path) -> Original:
    path = uploads / f"{index:03d}_{source.name}"
    with path.open("rb") as file:
        return Original(index, source.name, path, hashlib.file_digest(file, "sha256").hexdigest())
