"""Receives an upload: photos stream to the store one after the other, never whole in memory, under names that nobody else chose."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from gateway.door_json import BoundedBody
from gateway.problems import Loc, Problem, field_problem
from shared.bundles import HEAD_BYTES, is_bundle
from shared.errors import DependencyUnavailable
from shared.photo_names import harmless
from shared.ports import ArtifactStore
from shared.storage import keys

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

IMAGES = "images"
REQUEST = "request"


@dataclass(frozen=True)
class Part:
    """The head of one part of a form. `filename` is None for a plain field."""

    name: str
    filename: str | None


class PartEnd:
    """A part ended."""


@dataclass(frozen=True)
class ReceivedImage:
    """One photo as it lies in the store, or what holds many."""

    given_name: str
    key: str
    bytes: int
    sha256: str
    is_bundle: bool


@dataclass
class ReceivedUpload:
    """Everything that came in. `request` is the JSON text of the part of that name."""

    images: list[ReceivedImage] = field(default_factory=list)
    request: bytes = b"{}"


@dataclass(frozen=True)
class UploadLimits:
    """How much may come in, and within which time."""

    within: timedelta
    max_images: int
    max_image_bytes: int
    max_archive_bytes: int
    max_upload_bytes: int
    max_request_bytes: int


def boundary_of(request: Request) -> bytes:
    """The boundary of a multipart form. Raises Problem for any other body."""
    content_type, options = parse_options_header(request.headers.get("content-type"))
    if content_type != b"multipart/form-data":
        raise Problem("UNSUPPORTED_MEDIA_TYPE", "Send the photos as multipart/form-data.")
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 200:
        raise _unreadable("the Content-Type has no usable boundary")
    return boundary


async def receive_upload(request: Request, job_id: str, store: ArtifactStore, limits: UploadLimits) -> ReceivedUpload:
    """Reads the whole form; photos lie in the store afterwards.

    Raises Problem, and DependencyUnavailable while the store is away or has no room; what was stored by then is the caller's to purge.
    """
    boundary = boundary_of(request)
    body = BoundedBody(request, limits.max_upload_bytes, limits.within)
    try:
        return await _Receiver(job_id, store, limits).receive(parts_of(body, boundary))
    except (Problem, DependencyUnavailable):
        await body.discard()
        raise


async def parts_of(chunks: AsyncIterator[bytes], boundary: bytes) -> AsyncGenerator[Part | bytes | PartEnd, None]:
    """A form as it arrives: for each part its head, its bytes, its end. Raises Problem for what is no form."""
    collector = _Collector()
    parser = MultipartParser(boundary, collector.callbacks())
    try:
        async for chunk in chunks:
            parser.write(chunk)
            for event in collector.take():
                yield event
    except FormParserError as error:
        raise _unreadable(str(error)[:200]) from None
    if not collector.ended:
        raise _unreadable("it ends in the middle of a part")


def _unreadable(why: str) -> Problem:
    return field_problem("VALIDATION_FAILED", ("body",), f"the multipart form cannot be read: {why}", "multipart_invalid")


class _Collector:
    """What the parser's callbacks found since the last look."""

    def __init__(self) -> None:
        self.ended = False
        self._events: list[Part | bytes | PartEnd] = []
        self._headers: dict[str, bytes] = {}
        self._name, self._value = b"", b""

    def take(self) -> list[Part | bytes | PartEnd]:
        """The events, each once."""
        events, self._events = self._events, []
        return events

    def callbacks(self) -> "MultipartCallbacks":
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": lambda data, start, end: self._events.append(data[start:end]),
            "on_part_end": lambda: self._events.append(PartEnd()),
            "on_end": self._on_end,
        }

    def _begin(self) -> None:
        self._headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value
        self._name, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b"").decode("latin-1"))
        texts = {name: value.decode("utf-8", "replace") for name, value in options.items()}
        self._events.append(Part(texts.get(b"name", ""), texts.get(b"filename")))

    def _on_end(self) -> None:
        self.ended = True


class _Receiver:
    """Takes the parts of one upload, one after the other."""

    def __init__(self, job_id: str, store: ArtifactStore, limits: UploadLimits) -> None:
        self._job_id = job_id
        self._store = store
        self._limits = limits
        self._upload = ReceivedUpload()
        self._seen_request = False

    async def receive(self, events: AsyncGenerator[Part | bytes | PartEnd, None]) -> ReceivedUpload:
        async for event in events:
            if isinstance(event, Part):
                await self._take(event, events)
        return self._upload

    async def _take(self, part: Part, events: AsyncIterator[Part | bytes | PartEnd]) -> None:
        if part.name == IMAGES and part.filename is not None:
            await self._take_image(part.filename, events)
        elif part.name == REQUEST and not self._seen_request:
            self._seen_request = True
            content = _Content(events, self._limits.max_request_bytes, ("body", REQUEST))
            self._upload.request = b"".join([chunk async for chunk in content.chunks()])
        else:
            why = "must be a file" if part.name == IMAGES else "is not expected, or came twice"
            raise field_problem("VALIDATION_FAILED", ("body", part.name[:100]), f"the part {part.name[:100]!r} {why}", "extra_forbidden")

    async def _take_image(self, filename: str, events: AsyncIterator[Part | bytes | PartEnd]) -> None:
        index = len(self._upload.images)
        if index >= self._limits.max_images:
            raise field_problem("TOO_MANY_IMAGES", ("body", IMAGES), f"at most {self._limits.max_images} photos are taken", "too_long")
        content = _Content(events, self._limits.max_image_bytes, ("body", IMAGES, index), self._limits.max_archive_bytes)
        key = keys.image(self._job_id, index, harmless(filename))
        try:
            stored = await self._store.upload_stream(content.chunks(), key, "application/octet-stream")
        except Exception:
            if content.fault is not None:  # however the store wrapped it, the caller's mistake is what is told
                raise content.fault from None
            raise
        self._upload.images.append(ReceivedImage(filename, key, stored.bytes, stored.sha256, is_bundle(content.head)))


class _Content:
    """The bytes of one part, up to its end. `max_bundle_bytes`: of what holds many photos, by its first bytes."""

    def __init__(self, events: AsyncIterator[Part | bytes | PartEnd], max_bytes: int, loc: Loc, max_bundle_bytes: int = 0) -> None:
        self.fault: Problem | None = None
        self.head = b""
        self._events = events
        self._max_bytes = max_bytes
        self._max_bundle_bytes = max_bundle_bytes
        self._loc = loc

    async def chunks(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for event in self._events:
                if not isinstance(event, bytes):
                    return
                size += len(event)
                self.head += event[: HEAD_BYTES - len(self.head)]
                most = max(self._max_bytes, self._max_bundle_bytes if is_bundle(self.head) else 0)
                if size > most:
                    place = ".".join(str(part) for part in self._loc)
                    raise Problem("PAYLOAD_TOO_LARGE", f"{place} may have {most} bytes.")
                yield event
        except Problem as fault:
            self.fault = fault
            raise
