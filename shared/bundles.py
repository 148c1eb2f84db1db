"""Files that hold many photos. What a file is, its first bytes say; before they are here, a name may promise it."""

import re

HEAD_BYTES = 32  # enough to tell
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # with entries, and empty (APPNOTE.TXT 4.3.7, 4.3.16)
_EXTENSIONS = (".zip",)


def is_zip(head: bytes) -> bool:
    """Whether a file that begins so is a ZIP archive. A photo with an archive behind it is a photo."""
    return head.startswith(_ZIP)


def is_bundle(head: bytes) -> bool:
    """Whether a file that begins so may hold many photos."""
    return is_zip(head)


def promises_a_bundle(url: str) -> bool:
    """Whether a link, valid or not, leads to a file that may hold many photos, by the end of its path."""
    return re.split("[?#]", url, maxsplit=1)[0].lower().endswith(_EXTENSIONS)
