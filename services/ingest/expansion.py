"""In place of each archive or video that was sent, the photos that it holds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from services.ingest.archives import unpack
from services.ingest.keyframes import VideoLimits, extract_keyframes
from services.ingest.originals import Original
from services.ingest.params import IngestParams
from services.ingest.room import Room, UnusableBundleError
from services.ingest.settings import IngestSettings
from shared.bundles import HEAD_BYTES, is_video, is_zip
from shared.photo_names import unique_names


def expand(
    originals: Sequence[Original], folder: Path, params: IngestParams, settings: IngestSettings, tell: Callable[[str], None]
) -> list[Original]:
    """Every file in the order sent, each archive or video that opened followed by what it held, in `folder`.

    Photos are counted anew and get harmless names of their own; what was sent keeps its name. `tell` hears of every archive and video.
    Whatever their number, they have one share of room and of time.
    """
    sent = [(original, _head(original)) for original in originals]
    photos = sum(not (is_zip(head) or is_video(head)) for _, head in sent)
    room = Room(settings.max_images - photos, settings.max_unpacked_bytes, settings.max_image_bytes)
    deadline = time.monotonic() + settings.video_timeout.total_seconds()
    limits = VideoLimits(settings.max_video_frames, settings.max_image_megapixels, deadline)
    expanded: list[Original] = []
    for original, head in sent:
        if is_zip(head):
            tell(f"Unpacking {original.name}")
            expanded += _opened(original, folder, lambda archive: unpack(archive, folder, room))
        elif is_video(head):
            tell(f"Choosing frames of {original.name}")
            expanded += _opened(
                original, folder, lambda video: extract_keyframes(video, folder, room, params.keyframes, params.jpeg_quality, limits)
            )
        else:
            expanded.append(original)
    return _counted(_named(expanded))


def _head(original: Original) -> bytes:
    if original.path is None:
        return b""
    with original.path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _opened(bundle: Original, folder: Path, photos_of: Callable[[Original], list[Original]]) -> list[Original]:
    """The file itself, then what it held; one that cannot be opened has its reason."""
    assert bundle.path is not None
    try:
        photos = photos_of(bundle)
    except UnusableBundleError as error:
        return [replace(bundle, path=None, reason=error.code)]
    finally:
        if bundle.path.is_relative_to(folder):
            bundle.path.unlink()  # the disk need not hold every download twice
    return [replace(bundle, path=None, expanded=True), *photos]


def _named(originals: Sequence[Original]) -> list[Original]:
    """Names of what was sent are known to the caller: those of photos out of archives and videos give way."""
    found = [original for original in originals if original.source is not None]
    names = unique_names([*(o.name for o in originals if o.source is None), *(o.name for o in found)])
    fresh = iter(names[len(originals) - len(found) :])
    return [original if original.source is None else replace(original, name=next(fresh)) for original in originals]


def _counted(originals: Sequence[Original]) -> list[Original]:
    """Numbered in this order; what held photos has the number of the first."""
    counted, index = list[Original](), 0
    for original in originals:
        counted.append(replace(original, index=index))
        index += not original.expanded
    return counted
