"""What a photo's file is made of, looked at before Pillow keeps every part of it: hundreds of bytes of one that takes four in the file."""

import mmap
import re
from pathlib import Path

MAX_SEGMENTS = 2000  # cameras write tens; a profile may take 255, a depth map of 10 MB 160. Of an empty one Pillow keeps up to 650 bytes
MAX_SCANS = 100  # as libtiff; progressive photos have about ten. Each goes over all pixels, and 160 bytes are enough for one
_MAX_LOOSE_BYTES = 1 << 20  # between segments: padding, which Pillow reads byte by byte
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # with a segment; in what is coded there is none (ITU T.81, B.1.1)
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_FRAMES = {*range(0xC0, 0xD0), 0xDE} - {0xC4, 0xC8, 0xCC}  # a photo has one; Pillow makes thirty bytes of each byte of its header
_NO_SEGMENT = {0xC8, 0xD8, 0xD9, *range(0xF0, 0xFE)}  # Pillow takes them for two bytes, and libjpeg refuses each of them before a scan
_CHUNK = re.compile(rb"(?s)(.{4})(\w{4})")
_PIXELS, _END = b"IDAT", b"IEND"


def is_overloaded(path: Path) -> bool:
    """Whether a JPEG or PNG has more parts than any photo. Of WebP and HEIF a few times their size is kept, whatever their parts are."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:3] == b"\xff\xd8\xff":
            return _is_overloaded_jpeg(data)
        return data[:8] == b"\x89PNG\r\n\x1a\n" and _has_too_many_chunks(data)


def _is_overloaded_jpeg(data: mmap.mmap) -> bool:
    """Up to its end, which other things may follow: too many segments, scans, frames, or bytes between segments before its first scan."""
    at = 2
    segments = scans = frames = loose = 0
    while segments <= MAX_SEGMENTS and scans <= MAX_SCANS and frames <= 1 and loose <= _MAX_LOOSE_BYTES:
        marker = _MARKER.search(data, at)
        if marker is None or (scans and marker[0][1] == _END_OF_IMAGE):
            return False
        if not scans:
            loose += marker.start() - at
            if marker[0][1] in _NO_SEGMENT:
                return True
        segments += 1
        scans += marker[0][1] == _START_OF_SCAN
        frames += marker[0][1] in _FRAMES
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])  # behind the segment, as long as it says
    return True


def _has_too_many_chunks(data: mmap.mmap) -> bool:
    """Without those of pixels, which are as many as the encoder's buffer is small."""
    at, chunks = 8, 0
    while chunks <= MAX_SEGMENTS:
        head = _CHUNK.match(data, at)
        if head is None or head[2] == _END:
            return False
        chunks += head[2] != _PIXELS
        at += 12 + int.from_bytes(head[1])  # its length, kind and checksum, and what it holds
    return True
