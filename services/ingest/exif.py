"""What a photo's EXIF says, read in one place: a tag that nobody can read says nothing, and costs nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from PIL import ExifTags, Image

_T = TypeVar("_T")
_MAX_CHARACTERS = 64  # of a maker's or a camera's name
# What stands a photo upright (Exif 2.3, 4.6.4). ImageOps.exif_transpose does the same, but writes all of the EXIF anew besides.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_NUMBERS = (
    ExifTags.Base.FocalLength,
    ExifTags.Base.FocalLengthIn35mmFilm,
    ExifTags.Base.FocalPlaneXResolution,
    ExifTags.Base.FocalPlaneResolutionUnit,
    ExifTags.Base.ExifImageWidth,
    ExifTags.Base.ExifImageHeight,
)


@dataclass(frozen=True)
class PhotoExif:
    """`turn` stands the photo upright, None where it is. `numbers`: tags of the Exif directory that are above 0; any other is missing."""

    turn: Image.Transpose | None
    make: str
    model: str
    numbers: Mapping[int, float]


def read_exif(image: Image.Image) -> PhotoExif:
    """Of a photo that is open and was unpacked. Raises nothing, whatever the file says."""
    return PhotoExif(
        turn=_told(lambda: _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1)), None),
        make=_told(lambda: _text(image, ExifTags.Base.Make), ""),
        model=_told(lambda: _text(image, ExifTags.Base.Model), ""),
        numbers=_told(lambda: _numbers(image), {}),
    )


def _told(read: Callable[[], _T], nothing: _T) -> _T:
    try:
        return read()
    except Exception:  # types, counts and pointers are the file's: with them it chooses what Pillow raises
        return nothing


def _text(image: Image.Image, tag: int) -> str:
    return str(image.getexif().get(tag, "")).strip("\0 ")[:_MAX_CHARACTERS]


def _numbers(image: Image.Image) -> dict[int, float]:
    tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
    found = {int(tag): _told(partial(float, tags[tag]), 0.0) for tag in _NUMBERS if tag in tags}
    return {tag: number for tag, number in found.items() if 0 < number < 1e7}
