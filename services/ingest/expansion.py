"""In place of each archive that was sent, the photos that it holds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from services.ingest.archives import Room, UnusableArchiveError, unpack
from services.ingest.originals import Original
from services.ingest.settings import IngestSettings
from shared.bundles import HEAD_BYTES, is_bundle
from shared.photo_names import unique_names


def expand(originals: Sequence[Original], folder: Path, settings: IngestSettings, tell: Callable[[str], None]) -> list[Original]:
    """Every file in the order sent, each archive that opened followed by what it held, in `folder`.

    Photos are counted anew and get harmless names of their own; what was sent keeps its name. `tell` hears of every archive.
    """
    sent = [(original, _is_bundle(original)) for original in originals]
    photos = sum(not bundle for _, bundle in sent)
    room = Room(settings.max_images - photos, settings.max_unpacked_bytes, settings.max_image_bytes)
    expanded: list[Original] = []
    for original, bundle in sent:
        if bundle:
            tell(f"Unpacking {original.name}")
            expanded += _opened(original, folder, room)
        else:
            expanded.append(original)
    return _counted(_named(expanded))


def _is_bundle(original: Original) -> bool:
    if original.path is None:
        return False
    with original.path.open("rb") as file:
        return is_bundle(file.read(HEAD_BYTES))


def _opened(archive: Original, folder: Path, room: Room) -> list[Original]:
    """The archive itself, then what it held; an archive that cannot be opened has its reason."""
    assert archive.path is not None
    try:
        photos = unpack(archive, folder, room)
    except UnusableArchiveError as error:
        return [replace(archive, path=None, reason=error.code)]
    finally:
        if archive.path.is_relative_to(folder):
            archive.path.unlink()  # the disk need not hold every download twice
    return [replace(archive, path=None, expanded=True), *photos]


def _named(originals: Sequence[Original]) -> list[Original]:
    """Names of what was sent are known to the caller: those of photos out of archives give way."""
    found = [original for original in originals if original.source is not None]
    names = unique_names([*(o.name for o in originals if o.source is None), *(o.name for o in found)])
    fresh = iter(names[len(originals) - len(found) :])
    return [original if original.source is None else replace(original, name=next(fresh)) for original in originals]


def _counted(originals: Sequence[Original]) -> list[Original]:
    """Numbered in this order; an archive has the number of its first photo."""
    counted, index = list[Original](), 0
    for original in originals:
        counted.append(replace(original, index=index))
        index += not original.expanded
    return counted
