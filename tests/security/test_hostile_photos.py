"""Hostile files through ingest: memory stays bounded, each costs itself alone, and nothing is written outside the workspace."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.ingest import decoding, segments
from shared.contracts.request import ImageSource
from tests.security import hostile_files
from tests.security.hostile_files import SIDE, photo
from tests.unit.ingest.test_ingest_stage import workspace_of

PIXELS = SIDE * SIDE
SMALL_BYTES = 200 << 20  # readers, their tables, and a 64 MiB file at a time
GOOD = {f"good-{seed}.jpg": photo(seed) for seed in range(3)}


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    reasons: dict[str, str | None]  # of what was sent
    held: dict[str, dict[str, str | None]]  # of what archives held, by archive
    bytes: int
    found: list[str]


def ingested(folder: Path, files: dict[str, bytes]) -> Outcome:
    """Ingest over these files and three good ones, in a process of its own, watched."""
    everything = GOOD | files
    workspace = workspace_of(folder / "outer" / "workspace", [ImageSource(name=name, key=f"k/{name}") for name in everything])
    workspace.inputs("images").mkdir(parents=True)
    for index, (name, data) in enumerate(everything.items()):
        (workspace.inputs("images") / f"{index:03d}_{name}").write_bytes(data)
    environment = os.environ | {"MESHWORK_MAX_IMAGE_MEGAPIXELS": str(PIXELS / 1e6), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.security.run_ingest", str(workspace.root)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    outside = [path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(workspace.root)]
    assert outside == [] and told["found"] == []
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert not list(Path("/tmp").glob("escaped-*"))
    return Outcome({name: told["reasons"][name] for name in files}, told["held"], told["bytes"], told["found"])


def test_bombs_of_allowed_size_take_bounded_memory(tmp_path: Path) -> None:
    """Eight photos of 6 megapixels that are a few kilobytes each: two at a time, never more than 24 bytes a pixel of each."""
    outcome = ingested(tmp_path, hostile_files.bombs())
    assert set(outcome.reasons.values()) <= {None, "DUPLICATE"}
    assert outcome.bytes < SMALL_BYTES + 2 * 24 * PIXELS


def test_files_that_lie_about_themselves_cost_nothing(tmp_path: Path) -> None:
    """What promises too many pixels is refused by its header; what is broken is dropped or opened; nothing is unpacked without a bound."""
    too_large, broken = hostile_files.too_large(), hostile_files.broken()
    outcome = ingested(tmp_path, too_large | broken)
    assert {outcome.reasons[name] for name in too_large} <= {"IMAGE_TOO_LARGE", "CORRUPT_IMAGE"}
    assert {outcome.reasons[name] for name in broken} <= {None, "CORRUPT_IMAGE", "NOT_AN_IMAGE", "DUPLICATE", "IMAGE_TOO_LARGE"}
    assert outcome.bytes < SMALL_BYTES


def test_a_photo_whose_exif_leads_nowhere_is_a_photo(tmp_path: Path) -> None:
    """Pointers of other types, before the beginning and behind the end: they say nothing, and cost not even their photo."""
    outcome = ingested(tmp_path, hostile_files.pointers())
    assert set(outcome.reasons.values()) <= {None, "DUPLICATE"}
    assert outcome.bytes < SMALL_BYTES


def test_photos_with_no_room_for_anything_cost_themselves_alone(tmp_path: Path) -> None:
    """A pixel, a line: no step can reduce them, and none has to."""
    sizes = [(1, 1), (1, 2), (1, 1000), (20_000, 1), (20_000, 12), (31, 31), (700, 34)]
    outcome = ingested(tmp_path, {f"{width}x{height}.png": hostile_files.png(width, height) for width, height in sizes})
    assert set(outcome.reasons.values()) == {"IMAGE_TOO_SMALL"}


def test_pages_and_programs_are_no_photos(tmp_path: Path) -> None:
    """Whatever they are called, nothing of them is run or read."""
    outcome = ingested(tmp_path, hostile_files.no_photos())
    assert set(outcome.reasons.values()) == {"NOT_AN_IMAGE"}
    assert outcome.bytes < SMALL_BYTES


def test_archives_unpack_to_bounded_bytes_under_our_own_names(tmp_path: Path) -> None:
    """Bombs, slips, links, fifty zips in one another, entries that share their bytes, 100,000 files: each costs itself alone."""
    sent = hostile_files.archives()
    outcome = ingested(tmp_path, {name: data for name, (data, _) in sent.items()})
    for name, (_, allowed) in sent.items():
        held = outcome.held.get(name, {name: outcome.reasons[name]})
        assert held and set(held.values()) <= allowed, (name, held)
    assert outcome.bytes < SMALL_BYTES + 2 * 24 * PIXELS


def test_a_photo_that_is_something_else_besides_is_a_photo(tmp_path: Path) -> None:
    """Whatever follows the picture or hides in its comments is never looked at."""
    outcome = ingested(tmp_path, hostile_files.polyglots())
    assert set(outcome.reasons.values()) == {None}
    assert outcome.bytes < SMALL_BYTES


@pytest.mark.parametrize("data", [hostile_files.many_scans(20), photo(1, progressive=True) + b"\xff\xda\0\x02" * 1000])
def test_a_progressive_photo_is_a_photo(tmp_path: Path, data: bytes) -> None:
    """Also one of more scans than any camera makes, and one that is followed by something else, as a phone's moving photo is."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    assert decoding.decode(path, 100.0).image.mode == "RGB"


@pytest.mark.parametrize(
    "data", [hostile_files.many_scans(segments.MAX_SCANS), hostile_files.jpeg_with(0xE1, b"", times=segments.MAX_SEGMENTS)]
)
def test_a_photo_of_thousands_of_parts_is_refused_before_it_is_opened(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scan takes as long as the whole photo, each segment thirty times its size: megabytes of them would keep a worker or end it."""
    opened: list[Path] = []
    monkeypatch.setattr(decoding.Image, "open", lambda path, **_: opened.append(path))
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(decoding.UnusablePhotoError, match="CORRUPT_IMAGE"):
        decoding.decode(path, 100.0)
    assert opened == []


@pytest.mark.parametrize("seed", range(3))
def test_a_large_photo_is_unpacked_alone(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 40 megapixels one at a time: the memory of two would meet the limit of the child."""
    held: list[bool] = []

    def unpack(image: object) -> object:
        held.append(decoding._ONE_LARGE_AT_A_TIME.locked())
        raise ValueError

    monkeypatch.setattr(decoding, "_unpack", unpack)
    path = tmp_path / "photo.png"
    path.write_bytes(hostile_files.png(7000, 6000, 1, 0, 1, data=b"x") if seed else hostile_files.png(6000, 6000, 1, 0, 1, data=b"x"))
    with pytest.raises(decoding.UnusablePhotoError):
        decoding.decode(path, 100.0)
    assert held == [bool(seed)]
    assert not decoding._ONE_LARGE_AT_A_TIME.locked()
