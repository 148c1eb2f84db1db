"""One file per accepted photo: 8-bit sRGB, upright, no larger than asked for."""

import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from services.ingest.decoding import Decoded, UnusablePhotoError, decode
from services.ingest.focal_length import camera_key, focal_length_px
from services.ingest.originals import Original
from services.ingest.params import IngestParams
from services.ingest.photo_quality import PhotoQuality, measure

# Less is no photo, and nothing is left of a side when later steps reduce the other to some hundred pixels.
_LEAST_SIDE_PX, _MOST_SIDES = 32, 20


@dataclass(frozen=True)
class Photo:
    """One accepted photo, an entry of photos.json. `focal_px` is a prior, in pixels of the working image."""

    name: str
    file: str
    width: int
    height: int
    original_width: int  # of the photo as sent, upright
    original_height: int
    focal_px: float | None
    camera_key: str | None
    quality: PhotoQuality
    sha256: str
    pixels_sha256: str

    def to_json(self) -> dict[str, Any]:
        """The entry as photos.json has it."""
        return asdict(self) | {"quality": self.quality.rounded()}


def make_working_image(original: Original, outputs: Path, params: IngestParams, max_megapixels: float) -> Photo:
    """Decodes, turns, converts, reduces and writes one photo. Raises UnusablePhotoError."""
    assert original.path is not None
    decoded = decode(original.path, max_megapixels)
    if min(decoded.image.size) < max(_LEAST_SIDE_PX, max(decoded.image.size) / _MOST_SIDES):
        raise UnusablePhotoError("IMAGE_TOO_SMALL")
    image = _reduced(decoded.image, params.max_image_size)
    pixels = np.asarray(image)
    file = _write(original, decoded, image, outputs, params)
    return Photo(
        name=original.name,
        file=file,
        width=image.width,
        height=image.height,
        original_width=decoded.image.width,
        original_height=decoded.image.height,
        focal_px=focal_length_px(decoded.exif, image.width, image.height),
        camera_key=camera_key(decoded.exif, image.width, image.height),
        quality=measure(pixels),
        sha256=original.sha256,
        pixels_sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
    )


def _reduced(image: Image.Image, longest_px: int) -> Image.Image:
    scale = longest_px / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _write(original: Original, decoded: Decoded, image: Image.Image, outputs: Path, params: IngestParams) -> str:
    untouched = decoded.as_is and image.size == decoded.image.size
    lossless = decoded.lossless and image.size == decoded.image.size
    file = f"photos/{original.index:04d}.{'png' if lossless else 'jpg'}"
    path = outputs / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if untouched:
        assert original.path is not None
        shutil.copyfile(original.path, path)  # encoding again would cost quality
    elif lossless:
        Image.fromarray(np.asarray(image)).save(path, "PNG", compress_level=1)
    else:
        Image.fromarray(np.asarray(image)).save(path, "JPEG", quality=params.jpeg_quality, subsampling=0)
    return file
