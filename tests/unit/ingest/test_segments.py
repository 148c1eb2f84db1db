"""Files of more parts than any photo has are told from photos before anything keeps the parts."""

import io
from pathlib import Path

import pytest
from PIL import Image

from services.ingest.segments import MAX_SCANS, MAX_SEGMENTS, is_overloaded
from tests.security.hostile_files import chunk, jpeg_with, many_scans, photo, png

EMPTY = b"\xff\xe1\0\2"
FRAME = b"\xff\xc0\0\x0b\x08\0\x40\0\x40\1\0\0\0"


def with_head(data: bytes) -> bytes:
    """A JPEG with these bytes behind its first two."""
    plain = photo(5)
    return plain[:2] + data + plain[2:]


def three_frames() -> bytes:
    """As phones and stereo cameras write them: several JPEGs with an index of them in the first."""
    out, frames = io.BytesIO(), [Image.open(io.BytesIO(photo(seed))) for seed in range(3)]
    frames[0].save(out, "MPO", save_all=True, append_images=frames[1:])
    return out.getvalue()


PHOTOS = {
    "plain": photo(1),
    "progressive": photo(1, progressive=True),
    "restarts": photo(1, restart_marker_blocks=1, quality=95),
    "largest profile": photo(1, icc_profile=bytes(255 * 65_000)),
    "thumbnail": jpeg_with(0xE1, b"Exif\0\0" + photo(2)),
    "padded": with_head(b"\xff" * 4096 + bytes(4096)),
    "frames": three_frames(),
    "many scans": many_scans(20),
    "followed by something": photo(1) + EMPTY * 3000 + FRAME,
    "cut off": photo(1)[:500],
    "as many as are allowed": with_head(EMPTY * (MAX_SEGMENTS - 20)),
    "png": photo(1, "PNG"),
    "png of small pieces": photo(1, "PNG")[:33] + chunk(b"IDAT", b"") * 9000 + photo(1, "PNG")[33:],
    "png followed by something": photo(1, "PNG") + chunk(b"teXt", b"") * 9000,
    "webp": photo(1, "WEBP"),
}
OVERLOADED = {
    "segments": with_head(EMPTY * MAX_SEGMENTS),
    "comments": with_head(b"\xff\xfe\0\2" * MAX_SEGMENTS),
    "without a length": with_head(b"\xff\xe1\0\0" * MAX_SEGMENTS),
    "behind an end": with_head(b"\xff\xd9" + EMPTY * MAX_SEGMENTS),
    "in what Pillow takes for two bytes": jpeg_with(0xF0, EMPTY * MAX_SEGMENTS),
    "behind pixels": photo(1)[:-2] + EMPTY * MAX_SEGMENTS + photo(1)[-2:],
    "frames": with_head(FRAME),
    "scans": many_scans(MAX_SCANS),
    "fill": with_head(b"\xff" * (2 << 20)),
    "restarts without pixels": with_head(b"\xff\xd0" * (1 << 20)),
    "unknown chunks": png(64, 64, extra=chunk(b"abCd", b"") * (MAX_SEGMENTS + 1)),
    "chunks behind pixels": photo(1, "PNG")[:-12] + chunk(b"tEXt", b"a\0b") * MAX_SEGMENTS + photo(1, "PNG")[-12:],
}


@pytest.mark.parametrize("name", PHOTOS)
def test_what_cameras_and_editors_write_passes(tmp_path: Path, name: str) -> None:
    """Many scans, restart markers, large profiles, thumbnails, several photos in one file, and whatever follows the photo."""
    path = tmp_path / "photo"
    path.write_bytes(PHOTOS[name])
    assert not is_overloaded(path)


@pytest.mark.parametrize("name", OVERLOADED)
def test_more_parts_than_any_photo_has_are_refused(tmp_path: Path, name: str) -> None:
    """Wherever Pillow would look for them: before, behind and in places where the standard has none."""
    path = tmp_path / "photo"
    path.write_bytes(OVERLOADED[name])
    assert is_overloaded(path)
