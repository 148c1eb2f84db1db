"""Small videos, made in code: a window that moves over a picture."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

SIZE = (320, 240)


def picture(seed: int = 0) -> np.ndarray:
    """A wide picture of coarse grain, h×w×3."""
    grain = np.random.default_rng(seed).integers(0, 256, (60, 300, 3)).astype(np.uint8)
    return cv2.resize(grain, (2400, 480), interpolation=cv2.INTER_CUBIC)


def video(path: Path, offsets: Sequence[int], blurred: Sequence[int] = (), codec: str = "mp4v") -> bytes:
    """Frames at these offsets in pixels, some of them blurred; the file's bytes. The ending of the path names the container."""
    writer, wide = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 25, SIZE), picture()
    for frame, left in enumerate(offsets):
        pixels = np.ascontiguousarray(wide[100 : 100 + SIZE[1], left : left + SIZE[0]])
        writer.write(cv2.GaussianBlur(pixels, (0, 0), 4) if frame in blurred else pixels)
    writer.release()
    return path.read_bytes()
