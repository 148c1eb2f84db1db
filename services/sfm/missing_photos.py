"""Why photos could not be placed, in words that say which ones, and what to do about them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.sfm.ladder import Search
from shared.contracts.manifest import Manifest, Warning
from shared.photo_names import listed

BLURRED = 0.25  # of the set's median sharpness
PLAIN = 0.15  # of the set's median number of features
FEW_FEATURES = 60  # with less than this in every photo there is nothing to match at all

MEASURED = {
    "UNDEREXPOSED_PHOTOS": "too dark",
    "OVEREXPOSED_PHOTOS": "burnt out to white",
    "BLURRED_PHOTOS": "blurred, or without fine detail",
}

Rule = tuple[Callable[[int], bool], str, str]  # whether it holds for the photo of an index, the sentence, the hint


@dataclass(frozen=True)
class Cause:
    """What some photos have in common that keeps them out. The sentence goes on after "12 photos" or "1 photo"."""

    photos: tuple[str, ...]
    sentence: str
    hint: str

    @property
    def message(self) -> str:
        """For a person, with the photos' names."""
        count = len(self.photos)
        return f"{count} {'photo' if count == 1 else 'photos'} {self.sentence}: {listed(self.photos)}."


def measured_faults(steps: Sequence[Manifest]) -> tuple[Warning, ...]:
    """What earlier steps measured in photos that keeps features from being found, the surest first."""
    said = {warning.code: warning for step in steps for warning in step.report.warnings}
    return tuple(said[code] for code in MEASURED if code in said)


def causes(search: Search) -> list[Cause]:
    """Of all photos that the best component is without; each photo has one, the first that holds."""
    placed = set(search.components[0].reconstruction.reg_image_ids()) if search.components else set()
    left = [i for i in range(len(search.photos)) if i + 1 not in placed]
    found = []
    for holds, sentence, hint in _rules(search, placed):
        these = [i for i in left if holds(i)]
        left = [i for i in left if i not in these]
        if these:
            found.append(Cause(tuple(search.photos[i].name for i in these), sentence, hint))
    return found


def _measured_rules(search: Search) -> list[Rule]:
    """What was measured in the photos comes before what it leads to: no features, no overlap."""

    def rule(warning: Warning) -> Rule:
        named = {index for index, photo in enumerate(search.photos) if photo.name in warning.photos}
        return lambda i: i in named, MEASURED[warning.code], warning.hint

    return [rule(warning) for warning in search.measured]


def _rules(search: Search, placed: set[int]) -> list[Rule]:
    sharpness = [photo.sharpness or 0.0 for photo in search.photos]
    usual, counts = statistics.median(sharpness), search.seen_counts or [0] * len(search.photos)
    few = max(FEW_FEATURES, PLAIN * statistics.median(counts))
    linked = {i for pair in search.links for i in pair}
    to_model = {i for a, b in search.links for i, other in ((a, b), (b, a)) if other + 1 in placed}
    together = not placed and (search.stood_still or search.flat)
    return [
        *_measured_rules(search),
        (
            lambda i: together and i in linked,
            "taken from one place, or of one flat thing: nothing tells what is near and what is far",
            "Walk around the object: take each photo from another place; a camera that turns on the spot sees no depth.",
        ),
        (
            lambda i: 0.0 < sharpness[i] < BLURRED * usual,
            "far less sharp than the others",
            "Take them again with a still camera, a shorter exposure and the focus on the object.",
        ),
        (
            lambda i: counts[i] < few,
            "with hardly any texture in view",
            "Have something with a pattern in view: put the object on a newspaper or a patterned cloth; avoid plain walls and mirrors.",
        ),
        (
            lambda i: i not in linked,
            "without enough in common with any other photo",
            "Take more photos between these and their neighbours, with 60 to 80 % overlap from one to the next.",
        ),
        (
            lambda i: not placed,
            "that could not be placed although each overlaps with another",
            "Take more photos around the object, in steps of 10 to 15 degrees, and let nothing move.",
        ),
        (
            lambda i: i not in to_model,
            "with overlap among those that were not placed only",
            "Take photos that lead from these to the others, in steps of 10 to 15 degrees.",
        ),
        (
            lambda i: True,
            "with too little overlap to be placed, or with something in view that moved",
            "Move the camera rather than the object, or photograph it before a plain background; take more photos next to these.",
        ),
    ]
