"""What a photo is called inside a job: one rule for links, uploads and what archives and videos hold.

The last path segment of the URL, percent-decoded, or of the file name; unchanged when it is harmless as a file name and unique in the job,
else made so.
"""

from collections.abc import Iterable, Sequence
from urllib.parse import unquote, urlsplit

from shared.contracts.manifest import Manifest
from shared.contracts.request import JobRequest

# Room for `<nnn>_` before it and a number after it within the 255 bytes that file systems allow.
MAX_NAME_BYTES = 200
_MAX_EXTENSION_BYTES = 16
_NAMELESS = {"", ".", ".."}


def name_in_url(url: str) -> str:
    """The last path segment, percent-decoded: `http://host/a/b%20c.jpg?x=1` -> `b c.jpg`."""
    return unquote(urlsplit(url).path.rpartition("/")[2], errors="replace")


def names_in_job(request: JobRequest, steps: Iterable[Manifest]) -> list[str]:
    """Every photo of a job in the order sent: in place of an archive or a video, what the verdicts of its steps say came out of it."""
    held: dict[str, list[str]] = {}
    for verdict in (verdict for manifest in steps for verdict in manifest.report.images):
        if verdict.source is not None:
            held.setdefault(verdict.source, []).append(verdict.name)
    return [name for image in request.images for name in held.get(image.name, [image.name])]


def listed(names: Sequence[str], most: int = 10) -> str:
    """`a.jpg, b.jpg and 3 more`: as many names as a sentence bears."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def unique_names(given: Sequence[str]) -> list[str]:
    """A harmless name for each, all different, in the same order. Names that were harmless and unique stay as they are."""
    unclaimed = {name for name in given if harmless(name) == name}
    taken = set(unclaimed)
    last_number: dict[str, int] = {}
    names = []
    for name in given:
        if name in unclaimed:  # the first to bear a harmless name keeps it
            unclaimed.remove(name)
            names.append(name)
        else:
            names.append(_numbered(harmless(name), taken, last_number))
            taken.add(names[-1])
    return names


def harmless(name: str) -> str:
    """The name without folders and without characters that a terminal, a file system or a zip file could trip over."""
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = "".join(character if character.isprintable() else "_" for character in last)
    return "photo" if printable in _NAMELESS else _shortened(printable, MAX_NAME_BYTES)


def _numbered(name: str, taken: set[str], last_number: dict[str, int]) -> str:
    if name not in taken:
        return name
    stem, extension = _split(name)
    number = last_number.get(name, 1) + 1
    while (candidate := f"{stem}-{number}{extension}") in taken:
        number += 1
    last_number[name] = number
    return candidate


def _shortened(name: str, max_bytes: int) -> str:
    if len(name.encode()) <= max_bytes:
        return name
    stem, extension = _split(name)
    return stem.encode()[: max_bytes - len(extension.encode())].decode(errors="ignore") + extension


def _split(name: str) -> tuple[str, str]:
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) >= _MAX_EXTENSION_BYTES:
        return name, ""
    return stem, dot + extension
