"""From bytes that nobody vouches for to upright 8-bit sRGB pixels."""

import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

Image.init()  # Pillow loads its readers late, and `formats` takes loaded ones only
register_heif_opener(thumbnails=False)
Image.MAX_IMAGE_PIXELS = None  # the limit is checked here, from the header, with a code of its own

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF")
_ORIENTATION = 0x0112
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}


class UnusablePhotoError(Exception):
    """The photo is dropped; `code` says why."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


@dataclass(frozen=True)
class Decoded:
    """A photo that opened. `image` is upright, RGB, 8 bit; `exif` is as Pillow read it.

    `as_is`: the file itself already is an upright 8-bit sRGB JPEG. `lossless`: it was no JPEG, WebP or HEIC.
    """

    image: Image.Image
    exif: Image.Exif
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

    The size is checked before a pixel is unpacked, so that a small file cannot ask for gigabytes.
    """
    with path.open("rb") as file:
        if not looks_like_an_image(file.read(32)):
            raise UnusablePhotoError("NOT_AN_IMAGE")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > max_megapixels * 1e6:
                    raise UnusablePhotoError("IMAGE_TOO_LARGE")
                return _unpack(image)
    except UnusablePhotoError:
        raise
    except UnidentifiedImageError as error:
        raise UnusablePhotoError("CORRUPT_IMAGE") from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, KeyError, IndexError, TypeError, RuntimeError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of the file
        raise UnusablePhotoError("CORRUPT_IMAGE") from error


def _unpack(image: Image.Image) -> Decoded:
    image.load()
    exif = image.getexif()
    upright = exif.get(_ORIENTATION, 1) in {0, 1}
    kind, mode = image.format, image.mode
    srgb = _is_srgb(image.info.get("icc_profile"))
    opaque = _on_white(image)
    pixels = _to_rgb(opaque if srgb else _to_srgb(opaque, image.info["icc_profile"]))
    pixels = pixels if upright else _turned(pixels, exif)
    return Decoded(pixels, exif, kind == "JPEG" and mode == "RGB" and upright and srgb, kind in {"PNG", "TIFF"})


def _turned(image: Image.Image, exif: Image.Exif) -> Image.Image:
    image.getexif()[_ORIENTATION] = exif[_ORIENTATION]  # conversions above may have lost it
    return ImageOps.exif_transpose(image)


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
        values = np.asarray(image, dtype=np.float32)
        top = 65535.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else max(float(values.max(initial=0)), 1.0)
        return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Transparency lies on white, as a person would see it on a page."""
    transparent = image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or ("transparency" in image.info and not image.mode.startswith("I"))
    if not transparent:
        return image
    rgba = image.convert("RGBA")
    page = Image.new("RGBA", rgba.size, "white")
    page.alpha_composite(rgba)
    return page.convert("RGB")
