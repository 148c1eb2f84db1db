"""What is wrong with the photos of a capture, taken together: which are blurred, clipped or unlike the others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from services.ingest.photo_quality import PhotoQuality
from shared.contracts.manifest import Warning
from shared.photo_names import listed

RECOMMENDED_IMAGES = 12

# Figures of photos in focus and of the same blurred on purpose, rendered and real: sharpness 14 to 270 in focus, 3 to 20 with a blur of
# 1 px (at 1024 px), below 2 from 2 px on or with 13 px of motion.
HOPELESS_SHARE, HOPELESS_SHARPNESS = 0.05, 4.0
BLURRED_SHARE = 0.3
BLURRED_SHARPNESS, BLURRED_CRISPNESS = 4.0, 0.22  # faint texture in focus has little sharpness too, but is crisp
NO_DETAIL = 0.4  # grey levels squared: what JPEG leaves of nothing

CLIPPED_SHARE = 0.25
DARK_SHARE, DARK_STOPS = 0.4, -6.0
WHITER_THAN_OTHERS, BRIGHTER_THAN_OTHERS = 0.15, 1.0  # share of the photo, and stops: more sky alone is no fault
STOPS_FROM_OTHERS = 1.5  # an object lit from one side differs by up to one stop


@dataclass(frozen=True)
class Rated:
    """A photo's name and figures."""

    name: str
    quality: PhotoQuality


def is_hopeless(quality: PhotoQuality, median_sharpness: float) -> bool:
    """Blurred beyond use, in itself and beside the others: a calm wall must not be taken for a blurred photo."""
    return quality.sharpness < HOPELESS_SHARPNESS and quality.sharpness < HOPELESS_SHARE * median_sharpness


@dataclass(frozen=True)
class Usual:
    """Medians of a capture: what its photos are like that nothing is wrong with."""

    sharpness: float
    white: float
    brightness: float

    @staticmethod
    def of(photos: Sequence[PhotoQuality]) -> "Usual":
        """Of one photo or more."""
        return Usual(
            median(photo.sharpness for photo in photos),
            median(photo.white for photo in photos),
            median(photo.brightness for photo in photos),
        )


def reason_to_drop(quality: PhotoQuality, usual: Usual) -> str | None:
    """The code of what makes a photo useless. Exposure comes first: what is black or white all over is not sharp either."""
    if not is_hopeless(quality, usual.sharpness):
        return None
    return "TOO_DARK" if _is_dark(quality) else "TOO_BRIGHT" if _is_burnt(quality, usual) else "TOO_BLURRED"


def capture_warnings(photos: Sequence[Rated]) -> list[Warning]:
    """Everything that the photographer should know, each naming the photos that it is about."""
    if not photos:
        return []
    usual = Usual.of([photo.quality for photo in photos])
    over = [photo.name for photo in photos if _is_burnt(photo.quality, usual)]
    dark = [photo.name for photo in photos if _is_dark(photo.quality)]
    return [*_few(photos), *_blurred(photos, {*over, *dark}, usual), *_exposure(photos, over, dark, usual)]


def _few(photos: Sequence[Rated]) -> Iterator[Warning]:
    if len(photos) < RECOMMENDED_IMAGES:
        message = (
            f"Only {len(photos)} {'photo' if len(photos) == 1 else 'photos'} can be used; {RECOMMENDED_IMAGES} or more are recommended."
        )
        yield Warning(code="FEW_IMAGES", message=message, hint="Take photos all around the object, at two heights.")


def _blurred(photos: Sequence[Rated], clipped: set[str], usual: Usual) -> Iterator[Warning]:
    """Without those that clip: they lack detail for another reason, and a shorter exposure may be the wrong advice."""
    names = [photo.name for photo in photos if photo.name not in clipped and _is_blurred(photo.quality, usual.sharpness)]
    if not names:
        return
    hint = "Take these again: hold the camera still or use a tripod, focus on the object, use more light and a shorter exposure."
    if len(names) > len(photos) / 2:
        message = f"Most photos lack fine detail: out of focus, shaken, or of something without texture: {listed(names)}."
        hint += " If they are sharp, put the object on a newspaper or a patterned cloth, so that something has texture."
    else:
        message = f"Less sharp than the others ({len(names)} of {len(photos)}): {listed(names)}."
    yield Warning(code="BLURRED_PHOTOS", message=message, hint=hint, photos=tuple(names))


def _is_blurred(quality: PhotoQuality, median_sharpness: float) -> bool:
    in_itself = quality.sharpness < BLURRED_SHARPNESS and quality.crispness < BLURRED_CRISPNESS
    return in_itself or quality.sharpness < max(NO_DETAIL, BLURRED_SHARE * median_sharpness)


def _exposure(photos: Sequence[Rated], over: list[str], dark: list[str], usual: Usual) -> Iterator[Warning]:
    differing = (photo.name for photo in photos if abs(photo.quality.brightness - usual.brightness) > STOPS_FROM_OTHERS)
    uneven = [name for name in differing if name not in {*over, *dark}]
    if over:
        hint = "Take these again with less exposure: white areas have no texture to match. Avoid direct light and flash."
        yield _about("OVEREXPOSED_PHOTOS", "Burnt out to white", over, hint)
    if dark:
        hint = "Take these again with more light or a longer exposure on a tripod: what is black has no texture to match."
        yield _about("UNDEREXPOSED_PHOTOS", "Too dark", dark, hint)
    if uneven:
        hint = "Lock exposure and white balance, and keep the light as it is during the whole capture."
        yield _about("UNEVEN_EXPOSURE", f"Brighter or darker than the others by {STOPS_FROM_OTHERS} stops or more", uneven, hint)


def _is_dark(quality: PhotoQuality) -> bool:
    return quality.underexposed > DARK_SHARE or quality.brightness < DARK_STOPS


def _is_burnt(quality: PhotoQuality, usual: Usual) -> bool:
    whiter = quality.white > usual.white + WHITER_THAN_OTHERS and quality.brightness - usual.brightness > BRIGHTER_THAN_OTHERS
    return quality.overexposed > CLIPPED_SHARE or whiter


def _about(code: str, what: str, names: list[str], hint: str) -> Warning:
    return Warning(code=code, message=f"{what} ({len(names)}): {listed(names)}.", hint=hint, photos=tuple(names))
