"""What a photo is called inside a job."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.manifest import EXPANDED, ImageVerdict, StageReport
from shared.contracts.request import ImageSource
from shared.photo_names import name_in_url, names_in_job, unique_names
from tests.support.builders import a_request
from tests.support.gateway_rows import manifest_of


@pytest.mark.parametrize(
    "url, name",
    [
        ("http://h/a/b.jpg", "b.jpg"),
        ("http://h/a/b%20c.jpg?size=1#top", "b c.jpg"),
        ("http://h/caf%C3%A9.png", "café.png"),
        ("http://h/", ""),
        ("http://h", ""),
        ("http://h/%FF.jpg", "\ufffd.jpg"),
    ],
)
def test_a_link_names_its_photo_by_its_last_segment(url: str, name: str) -> None:
    """Percent-decoded, without query and fragment."""
    assert name == name_in_url(url)


@pytest.mark.parametrize(
    "sent, names",
    [
        (["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"]),
        (["same.jpg", "same.jpg", "same.jpg"], ["same.jpg", "same-2.jpg", "same-3.jpg"]),
        (["a.jpg", "a.jpg", "a-2.jpg"], ["a.jpg", "a-3.jpg", "a-2.jpg"]),
        (["x/b.jpg", "b.jpg"], ["b-2.jpg", "b.jpg"]),
        (["../../etc/cron.d/x.jpg", "/abs.jpg", "..\\y.jpg"], ["x.jpg", "abs.jpg", "y.jpg"]),
        (["..", ".", "", "/"], ["photo", "photo-2", "photo-3", "photo-4"]),
        (["\u202egpj.exe", "a\x00b.jpg", "line\nbreak.png"], ["_gpj.exe", "a_b.jpg", "line_break.png"]),
        (["semi;colon&and.jpg", "con.jpg", "ünïcode 照片.jpg"], ["semi;colon&and.jpg", "con.jpg", "ünïcode 照片.jpg"]),
        ([".hidden", "no-extension", "no-extension"], [".hidden", "no-extension", "no-extension-2"]),
    ],
)
def test_a_harmless_unique_name_stays_and_others_become_so(sent: list[str], names: list[str]) -> None:
    """The name as sent wherever it can be; a number before the extension where it cannot."""
    assert names == unique_names(sent)


def test_a_long_name_keeps_its_extension() -> None:
    """Within what file systems allow, also beside its twin."""
    first, second = unique_names(["ä" * 300 + ".jpeg"] * 2)
    assert first.endswith(".jpeg") and second.endswith("-2.jpeg")
    assert max(len(first.encode()), len(second.encode())) <= 210


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), max_size=40))
def test_every_name_is_harmless_and_taken_once(sent: list[str]) -> None:
    """Whatever was sent: as many names, all different, each a file name and nothing else."""
    names = unique_names(sent)
    assert len(sent) == len(names) == len(set(names))
    for name in names:
        assert name.isprintable() and "/" not in name and "\\" not in name
        assert name not in {"", ".", ".."} and len(name.encode()) <= 210


def test_in_place_of_an_archive_stand_its_photos() -> None:
    """In the order that ingest tells; whatever else was sent, and an archive that was not opened, stands for itself."""
    request = a_request("job", [ImageSource(name=name, url=f"http://h/{name}") for name in ("a.jpg", "b.zip", "c.zip")])
    told = (
        ImageVerdict(name="b.zip", status=EXPANDED),
        *(ImageVerdict(name=f"{i}.jpg", status="accepted", source="b.zip") for i in (2, 1)),
    )
    ingest, sfm = manifest_of("job", 0), manifest_of("job", 1)
    ingest = ingest.model_copy(update={"report": StageReport(images=told)})
    assert names_in_job(request, []) == ["a.jpg", "b.zip", "c.zip"]
    assert names_in_job(request, [ingest, sfm]) == ["a.jpg", "2.jpg", "1.jpg", "c.zip"]
