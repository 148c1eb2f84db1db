"""Photos that could not be placed are named, each with its own reason and what to do."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.sfm.ladder import Search
from services.sfm.missing_photos import causes, measured_faults
from services.sfm.params import SfmParams
from services.sfm.photos import Photo
from shared.contracts.manifest import Manifest, StageReport, Warning


def search_of(
    placed: set[int], links: list[tuple[int, int]], sharpness: list[float] | None = None, counts: list[int] | None = None
) -> Search:
    """Of ten photos p0 to p9; `placed` and `links` are their indices."""
    sharp = sharpness or [100.0] * 10
    photos = [Photo(f"p{i}", Path(f"{i}.jpg"), 640, 480, 640, 480, sharpness=sharp[i]) for i in range(10)]
    component: Any = SimpleNamespace(reconstruction=SimpleNamespace(reg_image_ids=lambda: {i + 1 for i in placed}))
    search = Search(photos, [], SfmParams(), Path(), lambda done, message: None, [component] if placed else [])
    search.links, search.seen_counts = links, counts or [2000] * 10
    return search


def test_nothing_is_said_where_all_are_placed() -> None:
    """Even of a photo that is less sharp."""
    assert causes(search_of(set(range(10)), [], [100.0] * 9 + [1.0])) == []


def test_each_photo_has_one_reason() -> None:
    """Blurred, plain, alone, in a group of its own, and none of these."""
    links = [*((i, i + 1) for i in range(4)), (7, 8), (4, 9)]
    found = causes(search_of(set(range(5)), links, [100.0] * 5 + [5.0] + [100.0] * 4, [2000] * 6 + [20] + [2000] * 3))
    assert [cause.photos for cause in found] == [("p5",), ("p6",), ("p7", "p8"), ("p9",)]
    assert [word in cause.message for cause, word in zip(found, ("sharp", "texture", "not placed", "moved"), strict=True)] == [True] * 4
    assert found[2].message == "2 photos with overlap among those that were not placed only: p7, p8."


def test_photos_without_any_link_are_told_to_overlap() -> None:
    """The commonest failure: too few photos for the way around."""
    (cause,) = causes(search_of(set(), []))
    assert cause.photos == tuple(f"p{i}" for i in range(10))
    assert "p0, p1" in cause.message and "overlap" in cause.hint


def test_without_a_model_linked_photos_overlap_with_each_other_only() -> None:
    """No part of them was placed, so there is no rest; the advice is to lead from one to the next."""
    found = causes(search_of(set(), [(i, i + 1) for i in range(9)]))
    assert len(found) == 1 and "steps" in found[0].hint
    assert "rest" not in found[0].message and "others" not in found[0].hint


@pytest.mark.parametrize("cause", ["flat", "stood_still"])
def test_photos_from_one_place_are_told_to_move(cause: str) -> None:
    """All overlap, and nothing in them tells depth: more of them would not help."""
    search = search_of(set(), [(i, i + 1) for i in range(9)])
    setattr(search, cause, True)
    (found,) = causes(search)
    assert "one place" in found.message and "another place" in found.hint


@pytest.mark.parametrize("code", ["UNDEREXPOSED_PHOTOS", "OVEREXPOSED_PHOTOS", "BLURRED_PHOTOS"])
def test_what_ingest_measured_comes_first(code: str) -> None:
    """A dark photo has hardly any features: more light is the advice for it, a newspaper for the plain one beside it."""
    warning = Warning(code=code, message="seen", hint="mend this", photos=("p0", "p1"))
    ingest = Manifest(
        job_id="j", step="ingest", position=0, stage="ingest", stage_version="1", attempt="a", report=StageReport(warnings=(warning,))
    )
    search = search_of(set(), [], counts=[3] * 10)
    search.measured = measured_faults([ingest])
    first, second = causes(search)
    assert (first.photos, first.hint) == (("p0", "p1"), "mend this")
    assert "newspaper" in second.hint and "p0" not in second.message
