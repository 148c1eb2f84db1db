"""Sharp, well-spaced photos out of a video that nobody vouches for.

It is read twice from front to back, since seeking lands where an index claims: once to see how sharp the frames are and how much the
picture moves from one to the next, once to write those that were chosen.
"""

import hashlib
import os
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from services.ingest.originals import Original
from services.ingest.photo_quality import measure
from services.ingest.room import Room, UnusableBundleError

LOOKS_PER_KEYFRAME = 12  # frames that are compared for each that is kept: of a walk around an object some half a second
_MAX_STEP = 30  # frames between two looks, whatever number of frames is claimed
_FLOW_SIZE = (160, 120)  # pixels: enough to see how much moves, whatever the proportions
_STILL_SHARE = 0.2  # of the mean motion is added to each look's, so that pauses count a little and a still picture is divided by time
_MEMORY_BYTES = 3 << 30  # 8K takes one; a few bytes of a codec's own header may ask for six, whatever size the container tells
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
# FFmpeg may open neither what a file refers to nor a playlist or a list of files that calls itself a video.
_FILES_ONLY = "protocol_whitelist;file|format_whitelist;mov,matroska"


@dataclass(frozen=True)
class VideoLimits:
    """How much of a video is read: frames decoded in one pass, pixels of a frame, and until when, by the monotonic clock."""

    frames: int
    megapixels: float
    deadline: float


@dataclass(frozen=True)
class Look:
    """One frame that was looked at. `motion`: mean optical flow since the look before, as a share of the picture."""

    frame: int
    sharpness: float
    motion: float


def extract_keyframes(video: Original, folder: Path, room: Room, wanted: int, jpeg_quality: int, limits: VideoLimits) -> list[Original]:
    """About `wanted` JPEG files in `folder`, upright, in the order of the video, called `<video>_0001.jpg` and so on.

    Raises UnusableBundleError with CORRUPT_VIDEO, VIDEO_TOO_LONG, IMAGE_TOO_LARGE or ARCHIVE_TOO_LARGE; then nothing of it is left.
    """
    assert video.path is not None
    if room.photos < 1:
        raise UnusableBundleError("ARCHIVE_TOO_LARGE")
    prefix = f"{video.index:04d}-"
    try:
        with _bounded_memory():
            chosen = choose(_looks(video.path, wanted, limits), min(wanted, room.photos))
            room.photos -= len(chosen)
            stem = Path(video.name).stem
            frames = _frames(video.path, limits, set(chosen))
            return [
                _written(pixels, folder / f"{prefix}{place:04d}", f"{stem}_{place:04d}.jpg", video, room, jpeg_quality)
                for place, (_, pixels) in enumerate(frames, 1)
            ]
    except (UnusableBundleError, cv2.error, MemoryError) as error:
        for path in folder.glob(f"{prefix}*"):
            path.unlink()
        if isinstance(error, UnusableBundleError):
            raise
        raise UnusableBundleError("CORRUPT_VIDEO") from error


def choose(looks: Sequence[Look], wanted: int) -> list[int]:
    """Frames in order: the video is divided into `wanted` stretches of equal motion, and of each the sharpest look is kept.

    At the ends of a stretch a look counts half: what is blurred still loses, and of sharp ones those are kept that are well spaced.
    """
    motion = np.array([look.motion for look in looks[1:]])
    pace = motion + _STILL_SHARE * motion.mean() if motion.any() else np.ones(len(motion))
    travelled = np.concatenate(([0.0], np.cumsum(pace)))
    place = travelled / max(travelled[-1], 1e-12) * wanted
    stretch = np.minimum(place, wanted - 1).astype(int)
    worth = np.array([look.sharpness for look in looks]) * (1.0 - np.abs(place - stretch - 0.5))
    best = (np.argmax(np.where(stretch == of, worth, -1.0)) for of in np.unique(stretch))
    return [looks[int(at)].frame for at in best]


def _looks(path: Path, wanted: int, limits: VideoLimits) -> list[Look]:
    """At least one. Raises UnusableBundleError."""
    looks: list[Look] = []
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    before: NDArray[np.uint8] | None = None
    for frame, pixels in _frames(path, limits, None, LOOKS_PER_KEYFRAME * wanted):
        rgb = np.ascontiguousarray(pixels[..., ::-1])
        small = np.asarray(cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), _FLOW_SIZE, interpolation=cv2.INTER_AREA), np.uint8)
        moved = (
            0.0
            if before is None
            else float((np.linalg.norm(flow.calc(before, small, np.zeros((*small.shape, 2), np.float32)), axis=2) / _FLOW_SIZE[0]).mean())
        )
        looks.append(Look(frame, measure(rgb).sharpness, moved))
        before = small
    if not looks:
        raise UnusableBundleError("CORRUPT_VIDEO")
    return looks


def _frames(path: Path, limits: VideoLimits, chosen: set[int] | None, looks: int = 1) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Number and h×w×3 BGR pixels of the frames that are chosen, or of about so many looks. Raises UnusableBundleError."""
    with _opened(path, limits) as capture:
        claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        step = int(np.clip(claimed / looks, 1, _MAX_STEP)) if np.isfinite(claimed) else 1
        last = max(chosen) if chosen else limits.frames
        for frame in range(last + 1):
            if not capture.grab():
                return
            if frame >= limits.frames or time.monotonic() > limits.deadline:
                raise UnusableBundleError("VIDEO_TOO_LONG")
            if frame in chosen if chosen is not None else frame % step == 0:
                there, pixels = capture.retrieve()
                if there and pixels.shape[0] * pixels.shape[1] > limits.megapixels * 1e6:  # the container promised less
                    raise UnusableBundleError("IMAGE_TOO_LARGE")
                if there:
                    yield frame, np.asarray(pixels, np.uint8)


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """While it lasts this process grows by no more: a decoder that asks for more ends as a damaged video does, not as a killed worker."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = [limit for limit in (soft, hard, mapped + _MEMORY_BYTES) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(most), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _opened(path: Path, limits: VideoLimits) -> Iterator[cv2.VideoCapture]:
    if time.monotonic() > limits.deadline:
        raise UnusableBundleError("VIDEO_TOO_LONG")
    os.environ[_OPTIONS] = _FILES_ONLY
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise UnusableBundleError("CORRUPT_VIDEO")
        if capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT) > limits.megapixels * 1e6:
            raise UnusableBundleError("IMAGE_TOO_LARGE")
        yield capture
    finally:
        capture.release()


def _written(pixels: NDArray[np.uint8], path: Path, name: str, video: Original, room: Room, jpeg_quality: int) -> Original:
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, encoded = cv2.imencode(".jpg", pixels, options)
    data = encoded.tobytes()
    room.take(len(data))
    path.write_bytes(data)
    return Original(video.index, name, path, hashlib.sha256(data).hexdigest(), None, video.name)
