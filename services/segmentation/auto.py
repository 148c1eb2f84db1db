"""Segmentation without a model: which of its two ways suits a capture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from services.segmentation.backdrop import BackdropSegmenter
from services.segmentation.mask import Image, Segmenter
from services.segmentation.params import SegmentationParams
from services.segmentation.still_camera import COMPARED_AT_PX, Grey, nothing_moved, still_groups
from services.segmentation.turntable import MOST_PHOTOS, Background, TurntableSegmenter

SegmenterOf = Callable[[int], Segmenter | None]  # by index of the photo

# Where most photos have no plain backdrop, or were not taken from a tripod, the masks of the others are luck, however sure each looks.
MIN_SHARE = 0.5


def read_photo(path: Path) -> Any:
    """h×w×3 RGB of a working image."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert image is not None, f"ingest wrote an image that cannot be read: {path.name}"
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def tripod_groups(files: Sequence[Path]) -> list[list[int]]:
    """Indices of the photos from each place of a camera that stood still; none unless most photos are from such places."""
    groups = still_groups([_thumbnail(path) for path in files])
    return groups if sum(map(len, groups)) >= MIN_SHARE * len(files) else []


def all_show_the_same(files: Sequence[Path], groups: Sequence[Sequence[int]]) -> bool:
    """Whether nothing moved before a camera that stood still. `groups`: of `tripod_groups`; False where there are none."""
    members = sorted(index for group in groups for index in group)
    place = {index: i for i, index in enumerate(members)}
    return nothing_moved([_thumbnail(files[index]) for index in members], [[place[index] for index in group] for group in groups])


def auto_segmenters(files: Sequence[Path], groups: Sequence[Sequence[int]], params: SegmentationParams) -> SegmenterOf:
    """The backgrounds of a tripod's photos where there are any, else a plain backdrop."""
    if not groups:
        backdrop = BackdropSegmenter(params.working_size, params.grabcut_iterations)
        return lambda index: backdrop
    of_photo: dict[int, Segmenter] = {}
    for group in groups:
        segmenter = TurntableSegmenter(_background([files[index] for index in group], params.working_size))
        of_photo |= dict.fromkeys(group, segmenter)
    return of_photo.get


def _background(files: Sequence[Path], working_size: int) -> Background:
    step = -(-len(files) // MOST_PHOTOS)
    reduced: list[Image] = []
    for path in files[::step]:
        photo = read_photo(path)
        scale = min(1.0, working_size / max(photo.shape[:2]))
        height, width = reduced[0].shape[:2] if reduced else (round(photo.shape[0] * scale), round(photo.shape[1] * scale))
        reduced.append(np.asarray(cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA), np.uint8))
    return Background.of(reduced)


def _thumbnail(path: Path) -> Grey:
    grey = cv2.imread(str(path), cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_IGNORE_ORIENTATION)  # JPEG: decoded at half size at once
    assert grey is not None, f"ingest wrote an image that cannot be read: {path.name}"
    scale = COMPARED_AT_PX / max(grey.shape)
    return np.asarray(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey, np.uint8)
