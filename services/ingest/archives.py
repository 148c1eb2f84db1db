"""Photos out of ZIP archives that nobody vouches for.

What an archive says of itself is not believed: bytes are counted as they come out, every photo is written under a name of our own, and
what is no photo by its first bytes is not unpacked at all. No link is made, no folder, and no archive inside is opened.
"""

import errno
import hashlib
import io
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from services.ingest.decoding import UnusablePhotoError, looks_like_an_image
from services.ingest.originals import Original
from services.ingest.room import Room, UnusableBundleError
from shared.bundles import HEAD_BYTES, is_zip

MAX_DIRECTORY_BYTES = 2 << 20  # zipfile reads it whole: some 45,000 entries, or 10,000 with long names
MAX_RATIO = 200  # photos are compressed already; an uncompressed TIFF of an object before a plain backdrop comes to 20
_BEFORE_RATIO_BYTES = 1 << 20  # what is small may be as plain as it likes
_CHUNK_BYTES = 1 << 18
_LOCAL_HEADER_BYTES = 30  # without the name: APPNOTE.TXT 4.3.7
_ENCRYPTED = 0x1
_METHODS = {ZIP_STORED, ZIP_DEFLATED}  # bzip2 and LZMA unpack a whole chunk at once, however large it gets
_CLUTTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}
_UNREADABLE = (BadZipFile, zlib.error, struct.error, EOFError, ValueError, IndexError, RuntimeError, OverflowError)


class _Bounded(io.FileIO):
    """Reads no more at once than a directory may have: its size is what the archive claims, and so are the places that are read."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise UnusableBundleError("ARCHIVE_TOO_LARGE")
        with _claims():
            return super().read(MAX_DIRECTORY_BYTES if size is None or size < 0 else size)

    def seek(self, offset: int, whence: int = 0) -> int:
        with _claims() if whence == io.SEEK_SET else nullcontext():
            return super().seek(offset, whence)


@contextmanager
def _claims() -> Iterator[None]:
    """A place before the file, or past any that a file can have, is the archive's fault: an OSError would blame the disk."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise BadZipFile from error


def unpack(archive: Original, folder: Path, room: Room) -> list[Original]:
    """The files of an archive, natural order of their paths: photos written to `folder`, for the others the reason why not.

    Names are the entries' own. Folders and what systems leave in archives are passed over. Raises UnusableBundleError with
    CORRUPT_ARCHIVE, ARCHIVE_TOO_LARGE or EMPTY_ARCHIVE; then nothing of it is left in `folder`.
    """
    assert archive.path is not None
    prefix = f"{archive.index:04d}-"
    try:
        with _Bounded(archive.path) as file, ZipFile(file) as opened:
            files = _files_in(opened.infolist(), room)
            return [_one(opened, entry, folder / f"{prefix}{place:04d}", archive, room) for place, entry in enumerate(files)]
    except (UnusableBundleError, *_UNREADABLE) as error:
        for path in folder.glob(f"{prefix}*"):
            path.unlink()
        if isinstance(error, UnusableBundleError):
            raise
        raise UnusableBundleError("CORRUPT_ARCHIVE") from error


def _files_in(entries: Sequence[ZipInfo], room: Room) -> list[ZipInfo]:
    files = [entry for entry in entries if not entry.filename.endswith("/") and not _is_clutter(entry.filename)]
    if not files:
        raise UnusableBundleError("EMPTY_ARCHIVE")
    if len(files) > room.photos:
        raise UnusableBundleError("ARCHIVE_TOO_LARGE")
    if _overlap(entries):
        raise UnusableBundleError("CORRUPT_ARCHIVE")
    room.photos -= len(files)
    return sorted(files, key=lambda entry: _natural(entry.filename))


def _overlap(entries: Sequence[ZipInfo]) -> bool:
    """Whether entries share bytes, so that a small file unpacks to anything (Fifield, A better zip bomb, WOOT 2019)."""
    ends = 0
    for start, size in sorted((entry.header_offset, entry.compress_size) for entry in entries):
        if start < ends:
            return True
        ends = start + _LOCAL_HEADER_BYTES + size
    return False


def _is_clutter(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return any(part in _CLUTTER or (part.startswith(".") and part not in {".", ".."}) for part in parts)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts 2.jpg before 10.jpg."""
    return [(bool(text), int(digits or 0), text) for digits, text in re.findall(r"([0-9]{1,18})|([^0-9]+)", name)]


def _one(opened: ZipFile, entry: ZipInfo, path: Path, archive: Original, room: Room) -> Original:
    reason, sha256 = _reason_to_leave(entry), ""
    if reason is None:
        try:
            sha256 = _write(opened, entry, path, room)
        except UnusablePhotoError as error:
            reason = error.code
        except _UNREADABLE:
            reason = "CORRUPT_IMAGE"
    if reason is not None:
        path.unlink(missing_ok=True)
    return Original(archive.index, entry.filename, path if reason is None else None, sha256, reason, archive.name)


def _reason_to_leave(entry: ZipInfo) -> str | None:
    kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 where the archive was not made on Unix
    if entry.flag_bits & _ENCRYPTED:
        return "ENCRYPTED"
    return "NOT_UNPACKED" if kind not in {0, stat.S_IFREG} or entry.compress_type not in _METHODS else None


def _write(opened: ZipFile, entry: ZipInfo, path: Path, room: Room) -> str:
    """The photo's sha256. Raises UnusablePhotoError, UnusableBundleError, or what zipfile raises."""
    digest, size = hashlib.sha256(), 0
    with opened.open(entry) as packed, path.open("xb") as file:
        while chunk := packed.read(_CHUNK_BYTES):
            if size == 0:
                _check_head(chunk[:HEAD_BYTES])
            size += len(chunk)
            room.take(len(chunk))
            if size > room.photo_bytes:
                raise UnusablePhotoError("IMAGE_TOO_LARGE")
            if size > _BEFORE_RATIO_BYTES + MAX_RATIO * entry.compress_size:
                raise UnusablePhotoError("NOT_UNPACKED")
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _check_head(head: bytes) -> None:
    if not looks_like_an_image(head):
        raise UnusablePhotoError("NESTED_ARCHIVE" if is_zip(head) else "NOT_AN_IMAGE")
