"""Files that hold many photos. What a file is, its first bytes say; before they are here, a name may promise it."""

import re

HEAD_BYTES = 32  # enough to tell
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # with entries, and empty (APPNOTE.TXT 4.3.7, 4.3.16)
_MATROSKA = b"\x1a\x45\xdf\xa3"  # WebM too
# Major brands of MP4, QuickTime and 3GP; those of HEIC and AVIF, which begin alike, are photos.
_MOVIE_BRANDS = {b"qt  ", b"isom", b"avc1", b"mp41", b"mp42", b"MSNV", b"M4V ", b"3gp4", b"3gp5", b"3gp6", b"3gp7", b"dash"}
_MOVIE_BRANDS |= {b"iso%d" % number for number in range(2, 10)}
_EXTENSIONS = (".zip", ".mp4", ".m4v", ".mov", ".webm", ".mkv")


def is_zip(head: bytes) -> bool:
    """Whether a file that begins so is a ZIP archive. A photo with an archive behind it is a photo."""
    return head.startswith(_ZIP)


def is_video(head: bytes) -> bool:
    """Whether a file that begins so is a video of the containers that we read. QuickTime files of before 2005 lack a brand."""
    return head.startswith(_MATROSKA) or head[4:8] == b"moov" or (head[4:8] == b"ftyp" and head[8:12] in _MOVIE_BRANDS)


def is_bundle(head: bytes) -> bool:
    """Whether a file that begins so may hold many photos."""
    return is_zip(head) or is_video(head)


def promises_a_bundle(url: str) -> bool:
    """Whether a link, valid or not, leads to a file that may hold many photos, by the end of its path."""
    return re.split("[?#]", url, maxsplit=1)[0].lower().endswith(_EXTENSIONS)
