"""Photos that a camera took from one place: on a tripod, while the object turned or moved.

Without masks such photos cannot be placed: the background says that the camera never moved, and it is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]

COMPARED_AT_PX = 320  # longest side
_BLOCK_PX = 16
_HIGH_PASS_PX = 3.0  # shading and out-of-focus shapes look alike from neighbouring places too; texture does not
_TEXTURED = 5.0  # grey levels: twice the noise of a phone's photo
_AGREES = 0.7  # correlation of a block with the same place in the other photo
_SAME_PLACE = 0.4  # of the textured blocks: the object, its shadow and its turntable may fill the rest
_SAME_VIEW = 0.97  # of the blocks with texture in either photo: what moves takes its outline along
_LEAST_TEXTURED = 0.04  # of all blocks: fewer tell nothing
_MANY_PLACES = 8  # so many places among the first photos: a camera that moves


@dataclass(frozen=True)
class _Blocks:
    """n blocks of 256 values each, zero mean and unit length, and which of them have texture."""

    values: NDArray[np.float32]
    textured: NDArray[np.bool_]


def still_groups(photos: Sequence[Grey]) -> list[list[int]]:
    """Indices of photos taken from one place each, of three photos or more, the largest group first.

    `photos`: grey, reduced to `COMPARED_AT_PX`. A photo joins the first group whose first photo has the same background.
    """
    groups: list[list[int]] = []
    leaders: list[_Blocks] = []
    for index, photo in enumerate(photos):
        blocks = _blocks(photo)
        home = next((i for i, leader in enumerate(leaders) if _same_place(leader, blocks)), None)
        if home is None:
            if len(groups) == _MANY_PLACES:
                continue
            groups.append([])
            leaders.append(blocks)
            home = len(groups) - 1
        groups[home].append(index)
    return sorted((group for group in groups if len(group) >= 3), key=len, reverse=True)


def nothing_moved(photos: Sequence[Grey], groups: Sequence[Sequence[int]]) -> bool:
    """Whether all photos of each group show the same, not their background alone: then no object turned either."""
    for first, *others in groups:
        leader = _blocks(photos[first])
        if any(
            _agreement(leader, blocks, leader.textured | blocks.textured) < _SAME_VIEW for blocks in (_blocks(photos[i]) for i in others)
        ):
            return False
    return bool(groups)


def _blocks(grey: Grey) -> _Blocks:
    fine = grey.astype(np.float32) - cv2.GaussianBlur(grey.astype(np.float32), (0, 0), _HIGH_PASS_PX)
    rows, columns = grey.shape[0] // _BLOCK_PX, grey.shape[1] // _BLOCK_PX
    cut = fine[: rows * _BLOCK_PX, : columns * _BLOCK_PX].reshape(rows, _BLOCK_PX, columns, _BLOCK_PX)
    values = cut.transpose(0, 2, 1, 3).reshape(rows * columns, _BLOCK_PX * _BLOCK_PX)
    values = values - values.mean(1, keepdims=True)
    length = np.linalg.norm(values, axis=1)
    return _Blocks(values / np.maximum(length, 1e-6)[:, None], length / _BLOCK_PX > _TEXTURED)


def _same_place(one: _Blocks, other: _Blocks) -> bool:
    if len(one.values) != len(other.values):
        return False
    textured = one.textured & other.textured
    if textured.mean() < _LEAST_TEXTURED:
        return False
    return _agreement(one, other, textured) > _SAME_PLACE


def _agreement(one: _Blocks, other: _Blocks, among: NDArray[np.bool_]) -> float:
    """Share of these blocks that look alike in both photos."""
    correlation = np.einsum("ni,ni->n", one.values[among], other.values[among])
    return float((correlation > _AGREES).mean())
