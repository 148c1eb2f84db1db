"""From bytes that nobody vouches for to upright 8-bit sRGB pixels."""

import errno
import io
import struct
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from pillow_heif import register_heif_opener

from services.ingest.exif import PhotoExif, read_exif
from services.ingest.segments import is_overloaded

Image.init()  # Pillow loads its readers late, and `formats` takes loaded ones only
register_heif_opener(thumbnails=False)
Image.MAX_IMAGE_PIXELS = None  # the limit is checked here, from the header, with a code of its own

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF")
_TILE_WIDTH, _TILE_LENGTH = 0x0142, 0x0143
_LARGE_MEGAPIXELS = 40.0
_ONE_LARGE_AT_A_TIME = Lock()  # unpacking takes up to 16 bytes a pixel: two of 100 megapixels at once would meet the child's limit
_BAND_ROWS = 256
_BY_PILLOW = (SyntaxError, struct.error, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, RuntimeError)
_UNREADABLE = (OSError, ValueError, EOFError, MemoryError, *_BY_PILLOW)  # a tag of another type than Pillow expects raises any of them
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}


class UnusablePhotoError(Exception):
    """The photo is dropped; `code` says why."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


@dataclass(frozen=True)
class Decoded:
    """A photo that opened. `image` is upright, RGB, 8 bit.

    `as_is`: the file itself already is an upright 8-bit sRGB JPEG. `lossless`: it was no JPEG, WebP or HEIC.
    """

    image: Image.Image
    exif: PhotoExif
    as_is: bool
    lossless: bool


def looks_like_an_image(head: bytes) -> bool:
    """Whether the first bytes are those of a format that we read."""
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS)
    )


def decode(path: Path, max_megapixels: float) -> Decoded:
    """Opens a photo. Raises UnusablePhotoError with NOT_AN_IMAGE, IMAGE_TOO_LARGE or CORRUPT_IMAGE.

    The parts are counted before Pillow keeps one, and the size is checked before a pixel is unpacked, so that a small file cannot ask
    for gigabytes.
    """
    with path.open("rb") as file:
        if not looks_like_an_image(file.read(32)):
            raise UnusablePhotoError("NOT_AN_IMAGE")
    if is_overloaded(path):
        raise UnusablePhotoError("CORRUPT_IMAGE")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                megapixels = max(image.width * image.height, _tile_pixels(image)) / 1e6
                if megapixels > max_megapixels:
                    raise UnusablePhotoError("IMAGE_TOO_LARGE")
                with _ONE_LARGE_AT_A_TIME if megapixels > _LARGE_MEGAPIXELS else nullcontext():
                    return _unpack(image)
    except UnusablePhotoError:
        raise
    except UnidentifiedImageError as error:
        raise UnusablePhotoError("CORRUPT_IMAGE") from error
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:  # EINVAL: the file claims to go on where no file can
            raise  # of the disk, not of the file
        raise UnusablePhotoError("CORRUPT_IMAGE") from error


def _tile_pixels(image: Image.Image) -> int:
    """Of one tile of a TIFF, which is unpacked whole however small the photo is."""
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))


def _unpack(image: Image.Image) -> Decoded:
    image.load()
    exif = read_exif(image)
    kind, mode = image.format, image.mode
    srgb = _is_srgb(image.info.get("icc_profile"))
    opaque = _on_white(image)
    pixels = _to_rgb(opaque if srgb else _to_srgb(opaque, image.info["icc_profile"]))
    upright = pixels if exif.turn is None else pixels.transpose(exif.turn)
    as_is = kind == "JPEG" and mode == "RGB" and srgb and upright is pixels
    return Decoded(upright, exif, as_is, kind in {"PNG", "TIFF"})


def _is_srgb(profile: bytes | None) -> bool:
    if not profile:
        return True
    try:
        return "srgb" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).lower()
    except (ImageCms.PyCMSError, OSError):
        return True  # a broken profile says nothing


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    if image.mode not in {"RGB", "L", "CMYK"}:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError):
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any opaque mode to 8-bit RGB; 16 bit is scaled."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled_to_8_bit(image).convert("RGB")
    return image.convert("RGB")


def _scaled_to_8_bit(image: Image.Image) -> Image.Image:
    """Grey values of 16 or 32 bits, in bands: floats of a whole photo would take as much again three times."""
    bands = [(0, top, image.width, min(top + _BAND_ROWS, image.height)) for top in range(0, image.height, _BAND_ROWS)]
    largest = max(float(np.asarray(image.crop(band), dtype=np.float32).max()) for band in bands)
    white = 65535.0 if image.mode.startswith("I;16") or largest > 255 else max(largest, 1.0)
    grey = Image.new("L", image.size)
    for band in bands:
        values = np.asarray(image.crop(band), dtype=np.float32)
        grey.paste(Image.fromarray(np.clip(values * (255.0 / white), 0, 255).astype(np.uint8)), band)
    return grey


def _on_white(image: Image.Image) -> Image.Image:
    """Transparency lies on white, as a person would see it on a page."""
    transparent = image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or ("transparency" in image.info and not image.mode.startswith("I"))
    if not transparent:
        return image
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    page = Image.new("RGB", rgba.size, "white")
    page.paste(rgba, mask=rgba)  # to the last bit as alpha_composite, which holds two more copies
    return page
