"""Photos, archives and videos with some bytes changed."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from services.ingest.archives import unpack
from services.ingest.decoding import UnusablePhotoError
from services.ingest.keyframes import VideoLimits, extract_keyframes
from services.ingest.originals import Original
from services.ingest.params import IngestParams
from services.ingest.room import Room, UnusableBundleError
from services.ingest.working_images import make_working_image
from tests.security.fuzzing.changes import changed_bytes
from tests.security.hostile_files import exif, heic, jpeg_with, photo, zipped
from tests.support.videos import video

MEGAPIXELS = 1.0
PHOTOS = {
    "jpeg": photo(1),
    "progressive": photo(5, progressive=True),
    "exif": jpeg_with(0xE1, exif(6, kind=4, count=1, offset=8)),
    "png": photo(2, "PNG"),
    "webp": photo(3, "WEBP"),
    "tiff": photo(4, "TIFF", compression="tiff_lzw"),
    "heic": heic(64),
}
VIDEOS = {"mp4": ("a.mp4", "mp4v"), "mov": ("a.mov", "MJPG"), "webm": ("a.webm", "VP90")}
ARCHIVE = zipped([("a.jpg", photo(1)), ("b/c.png", photo(2, "PNG")), ("d.txt", b"text")])
PHOTO_CODES = {"NOT_AN_IMAGE", "IMAGE_TOO_LARGE", "IMAGE_TOO_SMALL", "CORRUPT_IMAGE"}


def try_photo(kind: str) -> Callable[[int], int]:
    """It becomes a working image whose figures are numbers, or is dropped with a code."""

    def check(seed: int) -> int:
        with tempfile.TemporaryDirectory() as folder:
            path, outputs = Path(folder, "photo"), Path(folder, "out")
            (outputs / "photos").mkdir(parents=True)
            path.write_bytes(changed_bytes(Random(seed), PHOTOS[kind]))
            try:
                made = make_working_image(Original(0, "a.jpg", path), outputs, IngestParams(max_image_size=640), MEGAPIXELS)
            except UnusablePhotoError as error:
                assert error.code in PHOTO_CODES
                return 1
            assert made.width * made.height <= 1e6 * MEGAPIXELS
            json.dumps(made.to_json(), allow_nan=False)
        return 1

    return check


def try_archive(seed: int) -> int:
    """Most of all where its directory is: photos come out, or the archive has a code; never more bytes than there is room for."""
    random = Random(seed)
    data = changed_bytes(random, ARCHIVE)
    if random.random() < 0.5:
        data = changed_bytes(random, data[::-1])[::-1]
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
    return 1


def try_video(kind: str) -> Callable[[int], int]:
    """Its header, its index and its frames: photos come out, or the video has a code."""
    name, codec = VIDEOS[kind]
    whole = b""

    def check(seed: int) -> int:
        nonlocal whole
        with tempfile.TemporaryDirectory() as folder:
            whole = whole or video(Path(folder, name), range(0, 64, 8), codec=codec)
            random, path, frames = Random(seed), Path(folder, "video"), Path(folder, "frames")
            data = changed_bytes(random, whole) if random.random() < 0.7 else changed_bytes(random, whole[::-1])[::-1]
            path.write_bytes(data)
            frames.mkdir()
            try:
                limits = VideoLimits(frames=100, megapixels=MEGAPIXELS, deadline=time.monotonic() + 20.0)
                held = extract_keyframes(Original(0, "a.mp4", path), frames, Room(9, 1 << 24, 1 << 20), 3, 95, limits)
            except UnusableBundleError as error:
                assert error.code in {"CORRUPT_VIDEO", "VIDEO_TOO_LONG", "IMAGE_TOO_LARGE"}
                held = []
            assert set(frames.iterdir()) == {original.path for original in held}
        return 1

    return check
