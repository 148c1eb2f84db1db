"""The focal length that a photo's EXIF promises, in pixels of the upright photo."""

import math

from PIL import ExifTags

from services.ingest.exif import PhotoExif

_INCH_MM, _CM_MM = 25.4, 10.0
_FULL_FRAME_DIAGONAL_MM = 43.27  # the 35 mm equivalent compares diagonals (Exif 2.3, CIPA DCG-001), whatever the proportions
# Sensor width in millimetres, from the makers' data sheets: for cameras that write no 35 mm equivalent, or round it to a whole number.
_SENSOR_WIDTH_MM = {
    "nikon d3200": 23.2,
    "nikon d5300": 23.5,
    "nikon d90": 23.6,
    "nikon d750": 35.9,
    "nikon d850": 35.9,
    "canon eos 5d mark ii": 36.0,
    "canon eos 5d mark iii": 36.0,
    "canon eos r5": 36.0,
    "canon eos 80d": 22.5,
    "canon eos rebel t3i": 22.3,
    "ilce-7m3": 35.6,
    "ilce-6000": 23.5,
    "x-t3": 23.5,
    "kodak z612 zoom digital camera": 5.76,
    "kodak easyshare v705": 5.744,
    "fc6310": 13.2,
    "fc220": 6.17,
}
_PLAUSIBLE = (0.3, 12.0)  # focal length by longest side: 117° to 5° across


def focal_length_px(exif: PhotoExif, width: int, height: int) -> float | None:
    """None where EXIF says nothing plausible. `width` and `height` are the working image's.

    A known sensor comes first, then the 35 mm equivalent, then the focal plane's resolution, which is wrong most often.
    """
    longest = max(width, height)
    focal_mm = exif.numbers.get(ExifTags.Base.FocalLength, 0.0)
    equivalent_mm = exif.numbers.get(ExifTags.Base.FocalLengthIn35mmFilm, 0.0)
    sensor_mm = _SENSOR_WIDTH_MM.get(exif.model.lower())
    candidates = (
        focal_mm / sensor_mm * longest if focal_mm and sensor_mm else 0.0,
        equivalent_mm / _FULL_FRAME_DIAGONAL_MM * math.hypot(width, height),
        _by_focal_plane(exif, focal_mm, longest),
    )
    return next((value for value in candidates if _PLAUSIBLE[0] * longest <= value <= _PLAUSIBLE[1] * longest), None)


def camera_key(exif: PhotoExif, width: int, height: int) -> str | None:
    """Equal for photos of one camera at one focal length and size; None where EXIF does not name the camera."""
    if not exif.model:
        return None
    focal_mm = exif.numbers.get(ExifTags.Base.FocalLength, 0.0)
    return f"{exif.make}/{exif.model}/{focal_mm:.2f}/{width}x{height}"


def _by_focal_plane(exif: PhotoExif, focal_mm: float, longest: int) -> float:
    resolution = exif.numbers.get(ExifTags.Base.FocalPlaneXResolution, 0.0)
    unit_mm = _CM_MM if exif.numbers.get(ExifTags.Base.FocalPlaneResolutionUnit) == 3 else _INCH_MM
    stored = max(exif.numbers.get(tag, 0.0) for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight))
    return focal_mm * resolution / unit_mm * longest / stored if stored else 0.0
