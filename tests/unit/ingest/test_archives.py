"""Archives of photos: what is in them, under harmless names, and nothing that they only claim."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_LZMA, ZIP_STORED, ZipFile, ZipInfo

import pytest

from services.ingest.archives import unpack
from services.ingest.originals import Original
from services.ingest.params import IngestParams
from services.ingest.room import Room, UnusableBundleError
from services.ingest.stage import IngestStage
from shared.contracts.manifest import EXPANDED, ImageVerdict
from shared.contracts.request import ImageSource
from shared.errors import CODES, PermanentError
from shared.runtime.workspace import Workspace
from tests.security.hostile_files import photo, tiff, zipped
from tests.unit.ingest.test_ingest_stage import Pages, photos_of, serve, workspace_of

__all__ = ["serve"]

PHOTOS = [photo(seed) for seed in range(6)]
GOOD = {f"good-{seed}.jpg": photo(100 + seed) for seed in range(3)}
_LOCAL, _CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


def verdicts_of(folder: Path, files: dict[str, bytes]) -> tuple[Workspace, list[ImageVerdict]]:
    """Runs ingest over uploads; what it says of each."""
    workspace = workspace_of(folder, [ImageSource(name=name, key=f"k/{name}") for name in files])
    workspace.inputs("images").mkdir(parents=True)
    for index, (name, data) in enumerate(files.items()):
        (workspace.inputs("images") / f"{index:03d}_{name}").write_bytes(data)
    try:
        return workspace, list(IngestStage().run(workspace, IngestParams(drop_blurred=False)).images)
    except PermanentError as error:
        return workspace, list(error.report.images)


def reasons_in(folder: Path, archive: bytes) -> dict[str, str | None]:
    """Of an archive sent beside three good photos: the reason of everything in it, or its own."""
    _, verdicts = verdicts_of(folder, GOOD | {"set.zip": archive})
    return {verdict.name: verdict.reason for verdict in verdicts if verdict.name not in GOOD and verdict.status != EXPANDED}


def test_an_archive_becomes_its_photos_where_it_stood(tmp_path: Path) -> None:
    """Natural order of their paths, names by the last segment, unique in the job; what was sent keeps its name."""
    entries = [("b/10.jpg", PHOTOS[1]), ("b/2.jpg", PHOTOS[0]), ("c/2.jpg", PHOTOS[2]), ("c/first.jpg", PHOTOS[3])]
    workspace, verdicts = verdicts_of(tmp_path, {"first.jpg": PHOTOS[4], "set.zip": zipped(entries), "last.jpg": PHOTOS[5]})
    assert [(v.name, v.status, v.source) for v in verdicts] == [
        ("first.jpg", "accepted", None),
        ("set.zip", "expanded", None),
        ("2.jpg", "accepted", "set.zip"),
        ("10.jpg", "accepted", "set.zip"),
        ("2-2.jpg", "accepted", "set.zip"),
        ("first-2.jpg", "accepted", "set.zip"),
        ("last.jpg", "accepted", None),
    ]
    handed_on = [(entry["name"], entry["file"]) for entry in photos_of(workspace)]
    names = [v.name for v in verdicts if v.status != EXPANDED]
    assert handed_on == [(name, f"photos/{index:04d}.jpg") for index, name in enumerate(names)]
    sent = [PHOTOS[i] for i in (4, 0, 1, 2, 3, 5)]
    assert [(workspace.outputs / file).read_bytes() for _, file in handed_on] == sent
    assert list(workspace.scratch.iterdir()) == []


def test_content_decides_what_is_an_archive(tmp_path: Path) -> None:
    """Not the name: an archive that calls itself a photo is opened, a photo that calls itself an archive is a photo."""
    archive = zipped([(f"{i}.jpg", PHOTOS[i]) for i in range(3)])
    _, verdicts = verdicts_of(tmp_path, {"set.jpg": archive, "photo.zip": PHOTOS[4], "both.jpg": PHOTOS[5] + archive})
    assert [v.status for v in verdicts] == ["expanded", *["accepted"] * 5]


def test_what_systems_leave_in_sentis_passed_over(tmp_path: Path) -> None:
    """Folders, resource forks, hidden files and thumbnails are nobody's photos."""
    clutter = ["set/", "__MACOSX/set/._a.jpg", "set/.DS_Store", ".hidden/b.jpg", "set/Thumbs.db", "desktop.ini"]
    assert reasons_in(tmp_path, zipped([*((name, b"x" if name[-1] != "/" else b"") for name in clutter), ("a.jpg", PHOTOS[0])])) == {
        "a.jpg": None
    }


def test_names_lead_nowhere(tmp_path: Path) -> None:
    """Each photo is written under a number; what it is called is its last segment without anything that could trip somebody."""
    tricks = {
        "../../../escaped.jpg": "escaped.jpg",
        "/tmp/escaped-absolute.jpg": "escaped-absolute.jpg",
        "..\\..\\escaped-windows.jpg": "escaped-windows.jpg",
        "C:\\boot.jpg": "boot.jpg",
        "\u202egpj.exe": "_gpj.exe",
        "new\nline\x1b[31m.jpg": "new_line_[31m.jpg",
        "a" * 300 + ".jpg": "a" * 196 + ".jpg",
        "..": "photo",
    }
    workspace, verdicts = verdicts_of(tmp_path / "work", {"set.zip": zipped([(name, photo(i)) for i, name in enumerate(tricks)])})
    assert sorted(v.name for v in verdicts[1:]) == sorted(tricks.values())
    assert {v.reason for v in verdicts} == {None}
    assert all(path.is_relative_to(workspace.root) for path in tmp_path.rglob("*") if path.is_file())


def test_an_entry_without_a_name_gets_one(tmp_path: Path) -> None:
    """And costs no other."""
    made = io.BytesIO()
    with ZipFile(made, "w") as archive:
        archive.writestr(ZipInfo(""), PHOTOS[0])
        archive.writestr("b.jpg", PHOTOS[1])
    assert reasons_in(tmp_path, made.getvalue()) == {"photo": None, "b.jpg": None}


def with_flag(archive: bytes, flag: int) -> bytes:
    """The archive with a general purpose flag set on every entry (APPNOTE.TXT 4.4.4)."""
    data = bytearray(archive)
    for signature, offset in ((_LOCAL, 6), (_CENTRAL, 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + offset] |= flag
            at = data.find(signature, at + 4)
    return bytes(data)


def compressed(method: int) -> bytes:
    out = io.BytesIO()
    with ZipFile(out, "w", method) as archive:
        archive.writestr("a.jpg", PHOTOS[0])
    return out.getvalue()


def flat_tiff() -> bytes:
    """A photo that packs a thousandfold."""
    return tiff(64, 64) + bytes(4 << 20)


@pytest.mark.parametrize(
    "archive, reasons",
    [
        (lambda: zipped([("note.txt", b"hello"), ("empty.jpg", b"")]), {"note.txt": "NOT_AN_IMAGE", "empty.jpg": "NOT_AN_IMAGE"}),
        (lambda: zipped([("inner.zip", zipped([("a.jpg", PHOTOS[0])]))]), {"inner.zip": "NESTED_ARCHIVE"}),
        (lambda: zipped([], link="/etc/passwd"), {"photo.jpg": "NOT_UNPACKED"}),
        (lambda: with_flag(zipped([("a.jpg", PHOTOS[0])]), 0x1), {"a.jpg": "ENCRYPTED"}),
        (lambda: compressed(ZIP_BZIP2), {"a.jpg": "NOT_UNPACKED"}),
        (lambda: compressed(ZIP_LZMA), {"a.jpg": "NOT_UNPACKED"}),
        (lambda: compressed(ZIP_STORED), {"a.jpg": None}),
        (lambda: zipped([("flat.tif", flat_tiff())]), {"flat.tif": "NOT_UNPACKED"}),
        (lambda: zipped([("cut.jpg", PHOTOS[0][:900])]), {"cut.jpg": "CORRUPT_IMAGE"}),
        (lambda: zipped([("copy.jpg", GOOD["good-0.jpg"])]), {"copy.jpg": "DUPLICATE"}),
    ],
    ids=["no photos", "nested", "link", "encrypted", "bzip2", "lzma", "stored", "ratio", "cut off", "copy"],
)
def test_an_entry_that_is_no_photo_costs_itself_alone(tmp_path: Path, archive: Callable[[], bytes], reasons: dict[str, str | None]) -> None:
    """Each has its reason, and a hint for a person."""
    assert reasons_in(tmp_path, archive()) == reasons
    assert all(CODES[reason].hint for reason in reasons.values() if reason)


def test_a_damaged_entry_costs_itself_alone(tmp_path: Path) -> None:
    """Its checksum tells, although what came out so far looked like a photo."""
    archive = zipped([("a.jpg", PHOTOS[0]), ("b.jpg", PHOTOS[1])])
    damaged = bytearray(compressed(ZIP_STORED))
    damaged[len(damaged) // 2] ^= 0xFF
    assert reasons_in(tmp_path / "a", bytes(damaged)) == {"a.jpg": "CORRUPT_IMAGE"}
    assert reasons_in(tmp_path / "b", archive) == {"a.jpg": None, "b.jpg": None}


def overlapping() -> bytes:
    """Two names for the same bytes, as quoted zip bombs have thousands."""
    archive = bytearray(zipped([("a.jpg", PHOTOS[0]), ("b.jpg", PHOTOS[1])]))
    second = archive.rfind(_CENTRAL)
    archive[second + 42 : second + 46] = struct.pack("<I", 20)
    return bytes(archive)


def claiming(**fields: int) -> bytes:
    """An archive whose end claims a directory of another size or place (APPNOTE.TXT 4.3.16)."""
    archive = bytearray(zipped([("a.jpg", PHOTOS[0])]))
    for name, value in fields.items():
        at = len(archive) - 22 + {"size": 12, "offset": 16}[name]
        archive[at : at + 4] = struct.pack("<I", value)
    return bytes(archive)


@pytest.mark.parametrize(
    "archive, code",
    [
        (lambda: zipped([("a.jpg", PHOTOS[0])])[:-30], "CORRUPT_ARCHIVE"),
        (lambda: zipped([("a.jpg", PHOTOS[0])])[:200], "CORRUPT_ARCHIVE"),
        (lambda: b"PK\x03\x04" + bytes(100), "CORRUPT_ARCHIVE"),
        (overlapping, "CORRUPT_ARCHIVE"),
        (lambda: claiming(offset=0xFFFFFF00), "CORRUPT_ARCHIVE"),
        (lambda: claiming(size=0xFFFFFF), "CORRUPT_ARCHIVE"),
        (lambda: zipped([]), "EMPTY_ARCHIVE"),
        (lambda: zipped([("folder/", b""), (".hidden", b"x")]), "EMPTY_ARCHIVE"),
        (lambda: zipped((f"{i}.jpg", b"") for i in range(1000)), "ARCHIVE_TOO_LARGE"),
        (lambda: zipped((f"{i:0100d}.jpg", b"") for i in range(16_000)), "ARCHIVE_TOO_LARGE"),
    ],
    ids=["no end", "cut", "garbage", "overlap", "offset", "size", "empty", "only clutter", "too many", "directory too large"],
)
def test_an_archive_that_cannot_be_opened_says_why(tmp_path: Path, archive: Callable[[], bytes], code: str) -> None:
    """It is dropped as a whole; photos sent beside it go on."""
    assert reasons_in(tmp_path, archive()) == {"set.zip": code}
    assert CODES[code].hint
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_archive_alone_that_holds_too_little_fails_as_few_photos_do(tmp_path: Path) -> None:
    """The error names the archive's reason, or those of the photos in it."""
    workspace = workspace_of(tmp_path, [ImageSource(name="set.zip", key="k")])
    workspace.inputs("images").mkdir(parents=True)
    path = workspace.inputs("images") / "000_set.zip"
    path.write_bytes(zipped([("a.jpg", PHOTOS[0]), ("b.jpg", PHOTOS[1])]))
    with pytest.raises(PermanentError, match="Only 2 of 2 photos can be used"):
        IngestStage().run(workspace, IngestParams())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PermanentError, match=r"Only 0 of 1 photos .* CORRUPT_ARCHIVE: set.zip") as failed:
        IngestStage().run(workspace, IngestParams())
    assert CODES["CORRUPT_ARCHIVE"].hint in failed.value.hint


def test_limits_hold_for_all_sentof_a_job_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has room, the second has not: neither for its photos nor for its bytes."""
    sent = {f"{name}.zip": zipped([(f"{name}{i}.jpg", photo(50 + 3 * k + i)) for i in range(3)]) for k, name in enumerate("ab")}
    for name, value in {"MESHWORK_MAX_IMAGES": "5", "MESHWORK_MAX_UNPACKED_BYTES": str(5 * len(PHOTOS[0]))}.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            _, verdicts = verdicts_of(tmp_path / name, sent)
        assert [(v.status, v.reason) for v in verdicts] == [("expanded", None), *[("accepted", None)] * 3, ("dropped", "ARCHIVE_TOO_LARGE")]


def test_a_photo_above_the_limit_is_left_in_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted as it comes out: the directory may say that it is small."""
    monkeypatch.setenv("MESHWORK_MAX_IMAGE_BYTES", "200000")
    assert reasons_in(tmp_path, zipped([("a.jpg", PHOTOS[0]), ("b.jpg", PHOTOS[1] + bytes(200_000))])) == {
        "a.jpg": None,
        "b.jpg": "IMAGE_TOO_LARGE",
    }


def test_sizes_that_the_directory_lies_about_are_not_believed(tmp_path: Path) -> None:
    """A photo that is longer than promised is cut off there, and its checksum tells."""
    archive = bytearray(zipped([("a.jpg", PHOTOS[0])]))
    for signature, offset in ((_LOCAL, 22), (_CENTRAL, 24)):
        at = archive.find(signature) + offset
        archive[at : at + 4] = struct.pack("<I", 700)
    assert reasons_in(tmp_path, bytes(archive)) == {"a.jpg": "CORRUPT_IMAGE"}


def test_an_archive_is_downloaded_up_to_its_own_limit(
    tmp_path: Path, serve: Callable[[Pages], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Larger than a photo may be, under any name; what is larger still is not taken."""
    archive = zipped([(f"{i}.jpg", PHOTOS[i]) for i in range(4)])
    monkeypatch.setenv("MESHWORK_MAX_IMAGE_BYTES", str(len(archive) // 2))
    monkeypatch.setenv("MESHWORK_MAX_ARCHIVE_BYTES", str(len(archive)))
    url = serve({"/get": (200, {}, archive), "/more": (200, {}, archive + b"x"), "/photo": (200, {}, PHOTOS[0] + bytes(len(archive)))})
    workspace = workspace_of(tmp_path, [ImageSource(name=name, url=f"{url}/{name}") for name in ("get", "more", "photo")])
    verdicts = IngestStage().run(workspace, IngestParams(drop_blurred=False)).images
    assert [(v.name, v.reason) for v in verdicts if v.source is None] == [
        ("get", None),
        ("more", "IMAGE_TOO_LARGE"),
        ("photo", "IMAGE_TOO_LARGE"),
    ]
    assert [v.name for v in verdicts if v.source == "get"] == [f"{i}.jpg" for i in range(4)]


def test_what_links_bring_beyond_the_limit_of_a_job_is_not_kept(
    tmp_path: Path, serve: Callable[[Pages], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is within its own limit; all together would fill the disk. What fits goes on, also behind what did not."""
    large = b"PK\x03\x04" + bytes(200_000)
    monkeypatch.setenv("MESHWORK_MAX_FETCHED_BYTES", str(3 * len(large) // 2 + sum(map(len, PHOTOS))))
    monkeypatch.setenv("MESHWORK_DOWNLOADS", "1")
    pages = {f"/{seed}.jpg": (200, {}, data) for seed, data in enumerate(PHOTOS)} | {f"/{name}.zip": (200, {}, large) for name in "abcd"}
    url, names = serve(pages), ["0.jpg", "a.zip", "b.zip", "1.jpg", "c.zip", "d.zip", "2.jpg"]
    workspace = workspace_of(tmp_path, [ImageSource(name=name, url=f"{url}/{name}") for name in names])
    verdicts = IngestStage().run(workspace, IngestParams(drop_blurred=False)).images
    assert {v.name: v.reason for v in verdicts} == {
        **{"0.jpg": None, "1.jpg": None, "2.jpg": None, "a.zip": "CORRUPT_ARCHIVE"},
        **dict.fromkeys(("b.zip", "c.zip", "d.zip"), "TOTAL_TOO_LARGE"),
    }
    assert list(workspace.scratch.iterdir()) == []
    assert "16 GiB" in CODES["TOTAL_TOO_LARGE"].hint


def test_bytes_are_let_go_entry_by_entry(tmp_path: Path) -> None:
    """An archive that is refused in the middle leaves nothing of what had been unpacked."""
    room = Room(photos=10, bytes=2 * len(PHOTOS[0]), photo_bytes=1 << 20)
    (tmp_path / "set").write_bytes(zipped([(f"{i}.jpg", PHOTOS[0]) for i in range(4)]))
    with pytest.raises(UnusableBundleError, match="ARCHIVE_TOO_LARGE"):
        unpack(Original(0, "set.zip", tmp_path / "set"), tmp_path, room)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
