"""hypothesis on everything that reads what others wrote: messages, events, manifests, bodies, forms, photos. Each has an answer of its own
for what it cannot read, and no other.

A few examples here; `make fuzz N=100000` tries as many as it is told.
"""

import contextlib
import io
import json
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import services.webhooks.reading as webhook_reading
import shared.runtime.reading as stage_reading
from gateway import news
from gateway.database.records import Cursor
from gateway.door_json import parse_object
from gateway.door_multipart import parts_of
from gateway.problems import Problem
from services.ingest.archives import unpack
from services.ingest.decoding import UnusablePhotoError, decode
from services.ingest.focal_length import camera_key, focal_length_px
from services.ingest.keyframes import VideoLimits, extract_keyframes
from services.ingest.originals import Original
from services.ingest.room import Room, UnusableBundleError
from shared.contracts import events, manifest, messages, request, slip, split
from shared.contracts.base import Contract
from shared.contracts.routing import DEAD_EXCHANGE, EVENTS_EXCHANGE
from tests.security.hostile_files import exif, jpeg_with, photo, zipped
from tests.support.videos import video

EXAMPLES = int(os.environ.get("MESHWORK_TEST_FUZZ", "0"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4), max_leaves=12
)
TEXTS = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode())


def models(base: type[Contract] = Contract) -> list[type[Contract]]:
    """Every message, event and manifest, so that a new one is covered."""
    below = [found for model in base.__subclasses__() for found in [model, *models(model)]]
    return sorted({model for model in below if not model.__name__.startswith("_")}, key=lambda model: model.__name__)


MODELS = models()


def tried(least: int) -> Any:
    """As many examples as asked for, `least` in `make test`."""
    return settings(max_examples=max(least, EXAMPLES), deadline=None, database=None, suppress_health_check=list(HealthCheck))


def test_every_kind_of_message_is_tried() -> None:
    """Those of the contracts' modules are all here."""
    modules = (events, manifest, messages, request, slip, split)
    there = {value for module in modules for value in vars(module).values() if isinstance(value, type) and issubclass(value, Contract)}
    assert {model for model in there if model is not Contract and not model.__name__.startswith("_")} <= set(MODELS)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_reads_back_what_it_writes_and_refuses_the_rest(model: type[Contract]) -> None:
    """Whatever is in it travels unchanged; whatever is no such message is a ValidationError, never another exception."""

    fields = st.fixed_dictionaries({}, optional=dict.fromkeys(model.model_fields, SCALARS | JSON))

    @tried(20)
    @given(value=fields | JSON, text=TEXTS)
    def check(value: Any, text: bytes) -> None:
        with contextlib.suppress(ValidationError):
            read = model.model_validate(value)
            assert model.model_validate_json(read.to_bytes()).to_bytes() == read.to_bytes()
        with contextlib.suppress(ValidationError):
            model.model_validate_json(text)

    check()


def delivery(body: bytes, headers: dict[str, Any], key: str) -> Any:
    """As a broker hands it over."""
    exchange = DEAD_EXCHANGE if "dead" in key else EVENTS_EXCHANGE
    return SimpleNamespace(body=body, headers=headers, routing_key=key, exchange=exchange, queue=key, message_id="m", delivery_count=0)


HEADERS = st.dictionaries(
    st.sampled_from(["job", "step", "newer", "waited", "x-death", "code", "reason", "meshwork-job"]), SCALARS, max_size=4
)


@tried(20)
@given(
    body=TEXTS,
    fields=st.fixed_dictionaries(
        {}, optional={"schema_version": SCALARS, "job_id": SCALARS, "slip": JSON, "position": SCALARS, "type": JSON}
    ),
    headers=HEADERS,
    key=st.sampled_from(["stage.sfm.completed", "webhook.attempted", "dead.stage.sfm", "stage.sfm", "webhooks.deliver", ""]),
)
def test_no_message_breaks_a_consumer(body: bytes, fields: dict[str, Any], headers: dict[str, Any], key: str) -> None:
    """A worker, the webhooks service and the tracker say that they cannot read it, so that it is parked."""
    for text in (body, json.dumps(fields).encode()):
        one = delivery(text, headers, key)
        stage_reading.read_message(one, "sfm")
        webhook_reading.read_message(one)
        try:
            news.read_fact(one)
        except news.Unreadable as error:
            assert str(error)


@tried(20)
@given(text=TEXTS)
def test_no_body_breaks_the_door(text: bytes) -> None:
    """An object, or VALIDATION_FAILED."""
    try:
        assert isinstance(parse_object(text), dict)
    except Problem as problem:
        assert problem.info.status == 422 and problem.response("/x").status_code == 422


@tried(20)
@given(text=st.text(max_size=80))
def test_no_cursor_breaks_a_list(text: str) -> None:
    """One of ours, or a ValueError, which its route answers with 422."""
    with contextlib.suppress(ValueError):
        Cursor.decode(text)


BOUNDARY = b"edge"
LINES = [b"--edge\r\n", b"--edge--\r\n", b"\r\n", b"\r\n\r\n", b"--edge", b"Content-Disposition: \xff\xfe\r\n", b"x" * 9000, b": \r\n"]
HEADS = [b'Content-Disposition: form-data; name=images; filename="a\r\n', b'Content-Disposition: form-data; name="x"; filename="../x"\r\n']
PIECES = st.sampled_from([*LINES, *HEADS])


@tried(20)
@given(pieces=st.lists(PIECES | st.binary(max_size=30), max_size=12))
async def test_no_form_breaks_an_upload(pieces: list[bytes]) -> None:
    """Parts, or VALIDATION_FAILED."""

    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    try:
        async for _ in parts_of(chunks(), BOUNDARY):
            pass
    except Problem as problem:
        assert problem.info.status == 422


def _heic() -> bytes:
    from tests.security.hostile_files import heic

    return heic(64)


SEEDS = {
    "jpeg": photo(1),
    "exif": jpeg_with(0xE1, exif(6, kind=4, count=1, offset=8)),
    "png": photo(2, "PNG"),
    "webp": photo(3, "WEBP"),
    "tiff": photo(4, "TIFF", compression="tiff_lzw"),
    "heic": _heic(),
}


CHANGES = st.lists(st.tuples(st.integers(0, 599), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=6)


@tried(30)
@given(changes=CHANGES, from_end=st.booleans())
def test_no_damaged_archive_breaks_ingest(changes: list[tuple[int, int, bytes]], from_end: bool) -> None:
    """Most of all where its directory is: photos come out, or the archive has a code; never more bytes than there is room for."""
    data = bytearray(zipped([("a.jpg", photo(1)), ("b/c.png", photo(2, "PNG")), ("d.txt", b"text")]))
    for at, length, new in changes:
        place = max(len(data) - at, 0) if from_end else at
        data[place : place + length] = new
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "archive")
        path.write_bytes(data)
        room = Room(photos=3, bytes=1 << 20, photo_bytes=1 << 19)
        try:
            held = unpack(Original(0, "archive", path), Path(folder), room)
        except UnusableBundleError as error:
            assert error.code in {"CORRUPT_ARCHIVE", "ARCHIVE_TOO_LARGE", "EMPTY_ARCHIVE"}
            held = []
        written = {original.path for original in held if original.path is not None}
        assert set(Path(folder).iterdir()) == {path, *written}
        assert sum(one.stat().st_size for one in written) <= (1 << 20) - room.bytes


@pytest.mark.parametrize("name, codec", [("a.mp4", "mp4v"), ("a.mov", "MJPG"), ("a.webm", "VP90")])
def test_no_damaged_video_breaks_ingest(name: str, codec: str, tmp_path: Path) -> None:
    """Its header, its index and its frames: photos come out, or the video has a code."""
    whole, path = video(tmp_path / name, range(0, 64, 8), codec=codec), tmp_path / "video"
    place = st.integers(0, len(whole) - 1) | st.integers(0, 600) | st.integers(max(len(whole) - 900, 0), len(whole) - 1)

    @tried(8)
    @given(changes=st.lists(st.tuples(place, st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=6))
    def check(changes: list[tuple[int, int, bytes]]) -> None:
        data = bytearray(whole)
        for at, length, new in changes:
            data[at : at + length] = new
        path.write_bytes(data)
        with tempfile.TemporaryDirectory() as folder:
            try:
                limits = VideoLimits(frames=100, megapixels=1.0, seconds=20.0)
                held = extract_keyframes(Original(0, "a.mp4", path), Path(folder), Room(9, 1 << 24, 1 << 20), 3, 95, limits)
            except UnusableBundleError as error:
                assert error.code in {"CORRUPT_VIDEO", "VIDEO_TOO_LONG", "IMAGE_TOO_LARGE"}
                held = []
            assert set(Path(folder).iterdir()) == {original.path for original in held}

    check()


@pytest.mark.parametrize("kind", SEEDS)
def test_no_damaged_photo_breaks_ingest(kind: str, tmp_path: Path) -> None:
    """Bytes changed, cut out and put in anywhere, most of all where headers are: it opens, or is dropped with a code."""
    path, plain = tmp_path / "photo", SEEDS[kind]
    place = st.integers(0, min(600, len(plain) - 1)) | st.integers(0, len(plain) - 1)
    change = st.tuples(place, st.integers(0, 8), st.binary(max_size=8))

    @tried(15)
    @given(changes=st.lists(change, min_size=1, max_size=6))
    def check(changes: list[tuple[int, int, bytes]]) -> None:
        data = bytearray(plain)
        for at, length, new in changes:
            data[at : at + length] = new
        path.write_bytes(data)
        try:
            decoded = decode(path, 1.0)
        except UnusablePhotoError as error:
            assert error.code in {"NOT_AN_IMAGE", "IMAGE_TOO_LARGE", "CORRUPT_IMAGE"}
            return
        assert decoded.image.mode == "RGB" and decoded.image.width * decoded.image.height <= 1e6
        focal_length_px(decoded.exif, decoded.image.width, decoded.image.height)
        camera_key(decoded.exif, decoded.image.width, decoded.image.height)
        decoded.image.save(io.BytesIO(), "JPEG")

    check()
