"""Each fault of a capture has a code, names its photos and says what to do."""

from dataclasses import replace

import pytest

from services.ingest.capture_faults import Rated, Usual, capture_warnings, is_hopeless, reason_to_drop
from services.ingest.photo_quality import PhotoQuality

GOOD = PhotoQuality(sharpness=40.0, crispness=0.35, overexposed=0.0, underexposed=0.0, white=0.02, brightness=-2.0)


def capture(spoilt: int = 0, of: int = 12, **figures: float) -> list[Rated]:
    """`of` photos, the first `spoilt` of them with these figures."""
    return [Rated(f"{i:02d}.jpg", replace(GOOD, **figures) if i < spoilt else GOOD) for i in range(of)]


def test_a_good_capture_has_no_warning() -> None:
    """Nothing is said when nothing is wrong, nor of no photos at all."""
    assert capture_warnings(capture()) == []
    assert capture_warnings([]) == []


@pytest.mark.parametrize(
    ("figures", "code"),
    [
        ({"sharpness": 8.0, "crispness": 0.15}, "BLURRED_PHOTOS"),
        ({"overexposed": 0.6, "white": 0.4}, "OVEREXPOSED_PHOTOS"),
        ({"white": 0.3, "brightness": -0.8}, "OVEREXPOSED_PHOTOS"),
        ({"underexposed": 0.7, "brightness": -7.0}, "UNDEREXPOSED_PHOTOS"),
        ({"brightness": -6.5}, "UNDEREXPOSED_PHOTOS"),
        ({"brightness": -3.8}, "UNEVEN_EXPOSURE"),
    ],
)
def test_each_fault_names_its_photos_and_says_what_to_do(figures: dict[str, float], code: str) -> None:
    """One warning, with the two photos that have it and no other."""
    (warning,) = capture_warnings(capture(2, **figures))
    assert warning.code == code
    assert "00.jpg, 01.jpg" in warning.message and "02.jpg" not in warning.message
    assert len(warning.hint) > 30


def test_a_capture_that_is_blurred_throughout_is_noticed() -> None:
    """No photo is worse than the others; each is bad in itself."""
    (warning,) = capture_warnings(capture(12, sharpness=2.0, crispness=0.13))
    assert warning.code == "BLURRED_PHOTOS"
    assert "and 2 more" in warning.message


def test_calm_walls_and_faint_texture_are_not_blurred() -> None:
    """Little detail in all photos is what the thing looks like, as long as it is crisp."""
    assert capture_warnings(capture(12, sharpness=1.7, crispness=0.35)) == []


def test_a_bright_sky_is_not_overexposure() -> None:
    """More white than in the other photos is a fault only where the rest is brighter too."""
    assert capture_warnings(capture(2, white=0.3, brightness=-1.4)) == []


def test_few_photos_are_a_warning() -> None:
    """Fewer than twelve can work, but seldom well."""
    assert [warning.code for warning in capture_warnings(capture(of=8))] == ["FEW_IMAGES"]


def test_only_what_is_blurred_in_itself_and_beside_the_others_is_dropped() -> None:
    """A drop cannot be undone: both have to be true."""
    blurred = replace(GOOD, sharpness=1.0)
    assert is_hopeless(blurred, 40.0)
    assert not is_hopeless(blurred, 2.0)
    assert not is_hopeless(replace(GOOD, sharpness=10.0), 400.0)


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"underexposed": 1.0, "brightness": -12.0}, "TOO_DARK"),
        ({"overexposed": 1.0, "white": 1.0, "brightness": 0.0}, "TOO_BRIGHT"),
        ({}, "TOO_BLURRED"),
    ],
)
def test_a_photo_without_detail_is_dropped_for_what_took_it(figures: dict[str, float], reason: str) -> None:
    """Black and white photos have no detail either; a shorter exposure would make a black one worse."""
    usual = Usual.of([photo.quality for photo in capture()])
    assert reason_to_drop(replace(GOOD, sharpness=0.01, **figures), usual) == reason
    assert reason_to_drop(replace(GOOD, **figures), usual) is None


@pytest.mark.parametrize("figures", [{"underexposed": 0.9, "brightness": -9.0}, {"overexposed": 0.8, "white": 0.6, "brightness": -0.3}])
def test_a_capture_that_clips_throughout_is_not_called_blurred(figures: dict[str, float]) -> None:
    """Its want of detail has one cause, and one advice."""
    (warning,) = capture_warnings(capture(12, sharpness=0.2, crispness=0.1, **figures))
    assert warning.code in ("UNDEREXPOSED_PHOTOS", "OVEREXPOSED_PHOTOS")
