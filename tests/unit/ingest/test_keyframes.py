"""Photos out of videos: sharp, spaced by motion, and within limits whatever the file claims."""

import gc
import itertools
import resource
import struct
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from services.ingest.keyframes import Look, choose
from services.ingest.params import IngestParams
from services.ingest.stage import IngestStage
from shared.contracts.manifest import EXPANDED, ImageVerdict
from shared.contracts.request import ImageSource
from shared.errors import CODES
from shared.runtime.workspace import Workspace
from tests.security.hostile_files import photo
from tests.support.videos import picture, video
from tests.unit.ingest.test_ingest_stage import photos_of, workspace_of

GOOD = {f"good-{seed}.jpg": photo(100 + seed) for seed in range(3)}
EVEN = range(0, 480, 8)  # 60 frames


def ingested(
    folder: Path, data: bytes | dict[str, bytes], name: str = "walk.mp4", keyframes: int = 6
) -> tuple[Workspace, list[ImageVerdict]]:
    """A video, or several by name, sent behind three good photos; what is said of them and of their frames."""
    files = GOOD | ({name: data} if isinstance(data, bytes) else data)
    workspace = workspace_of(folder / "work", [ImageSource(name=sent, key=f"k/{sent}") for sent in files])
    workspace.inputs("images").mkdir(parents=True)
    for index, (sent, content) in enumerate(files.items()):
        (workspace.inputs("images") / f"{index:03d}_{sent}").write_bytes(content)
    report = IngestStage().run(workspace, IngestParams(drop_blurred=False, keyframes=keyframes))
    assert list(workspace.scratch.iterdir()) == []
    return workspace, [verdict for verdict in report.images if verdict.name not in GOOD]


def offsets_of(workspace: Workspace) -> list[int]:
    """Where in the picture each photo of the video was taken, found again by comparing."""
    wide, found = picture().astype(int), []
    for entry in photos_of(workspace)[len(GOOD) :]:
        pixels = np.asarray(Image.open(workspace.outputs / entry["file"]))[..., ::-1].astype(int)
        differences = [np.abs(wide[100:340:4, left : left + 320 : 4] - pixels[::4, ::4]).mean() for left in range(0, 500)]
        found.append(int(np.argmin(differences)))
    return found


@pytest.mark.parametrize("name, codec", [("a.mp4", "mp4v"), ("a.mov", "MJPG"), ("a.webm", "VP90"), ("a.mkv", "VP80")])
def test_a_video_becomes_photos_in_its_order(tmp_path: Path, name: str, codec: str) -> None:
    """Whatever the container and whatever it is called; frames are named after it, and have it as their source."""
    workspace, verdicts = ingested(tmp_path, video(tmp_path / name, EVEN, codec=codec), "walk.jpg")
    assert verdicts[0] == ImageVerdict(name="walk.jpg", status=EXPANDED)
    assert [(v.name, v.status, v.source) for v in verdicts[1:]] == [(f"walk_{i:04d}.jpg", "accepted", "walk.jpg") for i in range(1, 7)]
    entries = photos_of(workspace)[3:]
    assert {(entry["width"], entry["height"], entry["focal_px"]) for entry in entries} == {(320, 240, None)}
    offsets = offsets_of(workspace)
    assert offsets == sorted(offsets) and all(40 <= step <= 120 for step in np.diff(offsets))


def test_of_each_stretch_the_sharpest_frame_is_taken(tmp_path: Path) -> None:
    """Three of four frames are blurred: none of them is chosen."""
    blurred = [frame for frame in range(60) if frame % 4]
    workspace, _ = ingested(tmp_path, video(tmp_path / "a.mov", EVEN, blurred, "MJPG"))
    offsets = offsets_of(workspace)
    assert len(offsets) == 6 and all(abs(offset % 32 - 16) >= 15 for offset in offsets)  # 32: four frames further


def test_frames_follow_the_motion_not_the_clock() -> None:
    """A pause gives few photos, a fast pan many; a picture that stands still is divided by time."""
    looks = [Look(frame, 1.0, 0.0 if 100 <= frame < 200 else 0.01) for frame in range(300)]
    chosen = choose(looks, 30)
    assert len(chosen) == 30
    assert sum(100 <= frame < 200 for frame in chosen) <= 3
    still = choose([Look(frame, 1.0, 0.0) for frame in range(300)], 30)
    assert len(still) == 30 and max(np.diff(still)) <= 11


def test_fewer_frames_than_wanted_are_all_taken() -> None:
    """None twice; one frame is enough."""
    assert choose([Look(frame, 1.0, 0.01) for frame in range(5)], 48) == [0, 1, 2, 3, 4]
    assert choose([Look(7, 1.0, 0.0)], 48) == [7]


def damaged(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


@pytest.mark.parametrize("kind", ["cut", "no index", "garbage", "empty matroska", "sizes"])
def test_a_video_that_cannot_be_read_says_so(tmp_path: Path, kind: str) -> None:
    """It costs itself alone."""
    whole = video(tmp_path / "a.mov", EVEN, codec="MJPG")
    index = whole.find(b"moov")
    data = {
        "cut": whole[: len(whole) // 2],
        "no index": damaged(whole, index, b"junk"),
        "garbage": whole[:32] + bytes(5000),
        "empty matroska": b"\x1a\x45\xdf\xa3" + bytes(5000),
        "sizes": whole.replace(struct.pack(">HH", 320, 240), struct.pack(">HH", 0, 0)),
    }[kind]
    _, verdicts = ingested(tmp_path, data)
    assert {(v.status, v.reason) for v in verdicts} == {("dropped", "CORRUPT_VIDEO")} or kind == "sizes"
    assert CODES["CORRUPT_VIDEO"].hint


@pytest.mark.parametrize(
    "setting, value, code",
    [
        ("MAX_VIDEO_FRAMES", "59", "VIDEO_TOO_LONG"),
        ("VIDEO_TIMEOUT", "PT0S", "VIDEO_TOO_LONG"),
        ("MAX_IMAGE_MEGAPIXELS", "0.07", "IMAGE_TOO_LARGE"),
        ("MAX_UNPACKED_BYTES", "30000", "ARCHIVE_TOO_LARGE"),
        ("MAX_IMAGES", "3", "ARCHIVE_TOO_LARGE"),
    ],
)
def test_limits_hold_whatever_the_file_claims(tmp_path: Path, setting: str, value: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames and seconds while they are read, pixels before the first, photos and bytes together with those of archives."""
    monkeypatch.setenv(f"MESHWORK_{setting}", value)
    _, verdicts = ingested(tmp_path, video(tmp_path / "a.mp4", EVEN))
    assert [(v.name, v.status, v.reason) for v in verdicts] == [("walk.mp4", "dropped", code)]


def test_all_videos_of_a_job_have_one_share_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second passes at each look at the clock: there is time for two videos, not for two and then two more. Photos go on."""
    looks, opened = itertools.count(), list[str]()
    clock = SimpleNamespace(monotonic=lambda: float(next(looks)))
    monkeypatch.setattr("services.ingest.keyframes.time", clock)
    monkeypatch.setattr("services.ingest.expansion.time", clock)
    original = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda path, *rest: (opened.append(path), original(path, *rest))[1])
    monkeypatch.setenv("MESHWORK_VIDEO_TIMEOUT", "PT300S")
    data = video(tmp_path / "a.mp4", EVEN)
    _, verdicts = ingested(tmp_path, {f"{name}.mp4": data for name in "abcde"})
    assert {v.name: v.reason for v in verdicts if v.source is None} == {
        **{"a.mp4": None, "b.mp4": None},
        **dict.fromkeys(("c.mp4", "d.mp4", "e.mp4"), "VIDEO_TOO_LONG"),
    }
    assert len(set(opened)) == 3  # whoever comes after the end is not even opened


def test_memory_is_bounded_while_a_video_is_read_and_not_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of 16,000 × 16,000 in a file that tells of 320 × 240: no gigabytes, no end of the process."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    monkeypatch.setattr("services.ingest.keyframes._MEMORY_BYTES", 64 << 20)
    told, asked = (b"\x9d\x01\x2a" + struct.pack("<HH", *size) for size in ((320, 240), (16_000, 16_000)))  # RFC 6386, 9.1
    data = video(tmp_path / "a.webm", EVEN[:8], codec="VP80")
    gc.collect()  # what earlier tests left would make room for a frame of 384 MB when it goes
    _, verdicts = ingested(tmp_path / "huge", data.replace(told, asked))
    assert told in data and [(v.status, v.reason) for v in verdicts] == [("dropped", "CORRUPT_VIDEO")]
    _, verdicts = ingested(tmp_path / "honest", data)
    assert {v.status for v in verdicts} == {"expanded", "accepted"}  # within the same memory
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_exactly_the_limit_of_frames_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And as many photos as there is room for."""
    monkeypatch.setenv("MESHWORK_MAX_VIDEO_FRAMES", "60")
    monkeypatch.setenv("MESHWORK_MAX_IMAGES", "7")
    _, verdicts = ingested(tmp_path, video(tmp_path / "a.mp4", EVEN))
    assert [v.name for v in verdicts] == ["walk.mp4", *(f"walk_{i:04d}.jpg" for i in range(1, 5))]
