"""Why photos could not be placed, in words that say which ones, and what to do about them."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from services.sfm.ladder import Search
from shared.photo_names import listed

BLURRED = 0.25  # of the set's median sharpness
PLAIN = 0.15  # of the set's median number of features
FEW_FEATURES = 60  # with less than this in every photo there is nothing to match at all


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


def _rules(search: Search, placed: set[int]) -> list[tuple[Callable[[int], bool], str, str]]:
    sharpness = [photo.sharpness or 0.0 for photo in search.photos]
    usual, counts = statistics.median(sharpness), search.seen_counts or [0] * len(search.photos)
    few = max(FEW_FEATURES, PLAIN * statistics.median(counts))
    linked = {i for pair in search.links for i in pair}
    to_model = {i for a, b in search.links for i, other in ((a, b), (b, a)) if other + 1 in placed}
    return [
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
            "that no other photo has enough in common with",
            "Take more photos between these and their neighbours, with 60 to 80 % overlap from one to the next.",
        ),
        (
            lambda i: i not in to_model,
            "that overlap with each other but not with the rest",
            "Take photos that lead from these to the others, in steps of 10 to 15 degrees.",
        ),
        (
            lambda i: True,
            "that overlap with the others too little to be placed, or that show something that moved",
            "Move the camera rather than the object, or photograph it before a plain background; take more photos next to these.",
        ),
    ]
