"""A camera on a tripod, an object that turns: masks where they are asked for, a word of warning where not."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from services.segmentation.params import SegmentationParams
from services.segmentation.still_camera import still_groups
from services.segmentation.turntable import Background, TurntableSegmenter
from tests.unit.segmentation.photos_in_memory import intersection_over_union, run

SIZE = (240, 320)  # height, width
Pair = tuple[np.ndarray, np.ndarray]  # photo, true mask


def texture(seed: int, cells: int = 60, low: int = 40, high: int = 220) -> np.ndarray:
    """h×w×3: coloured patches that nothing else has."""
    random = np.random.default_rng(seed)
    patches = random.integers(low, high, (cells * 3 // 4, cells, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(patches, SIZE[::-1], interpolation=cv2.INTER_CUBIC))


def turning(count: int = 8, wall: int = 99, shadow: bool = False, dim: float = 1.0) -> list[Pair]:
    """An ellipse whose texture and outline change from photo to photo, before a wall that stays."""
    pairs = []
    for i in range(count):
        truth = np.zeros(SIZE, np.uint8)
        cv2.ellipse(truth, (160 + round(15 * np.cos(i)), 120), (40 + 20 * (i % 2), 60), 40 * i, 0, 360, 255, cv2.FILLED)
        behind = texture(wall).astype(np.float64)
        if shadow:
            behind[180:230, 60 + 20 * i : 110 + 20 * i] *= 0.6
        scene = np.where(truth[..., None] > 0, texture(i, 30), behind) * dim ** (i % 2)
        noise = np.random.default_rng(i).normal(0, 2, scene.shape)
        pairs.append((np.clip(scene + noise, 0, 255).astype(np.uint8), truth))
    return pairs


def walking(count: int = 8) -> list[np.ndarray]:
    """The same wall from places that differ by two pixels in a hundred."""
    wide = cv2.resize(texture(99), (640, 480), interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(wide[20 : 20 + SIZE[0], 7 * i : 7 * i + SIZE[1]]) for i in range(count)]


def grey(photo: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY))


def test_a_tripod_is_told_from_a_walk() -> None:
    """The same background in the same place, whatever stands before it; a step aside moves it."""
    assert still_groups([grey(photo) for photo, _ in turning()]) == [list(range(8))]
    assert still_groups([grey(photo) for photo in walking()]) == []


def test_each_place_of_the_tripod_is_a_group() -> None:
    """Two rounds at two heights have two backgrounds."""
    photos = [grey(photo) for photo, _ in (*turning(5, wall=99), *turning(4, wall=77))]
    assert still_groups(photos) == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]


def test_a_plain_backdrop_proves_nothing() -> None:
    """Without texture behind the object nobody can tell, and nothing depends on it."""
    photos = [np.where(truth > 0, grey(photo), 200).astype(np.uint8) for photo, truth in turning()]
    assert still_groups(photos) == []


@pytest.mark.parametrize(("shadow", "dim"), [(False, 1.0), (True, 1.0), (False, 0.7)])
def test_what_turns_is_told_from_what_stays(shadow: bool, dim: float) -> None:
    """Also under a hard shadow that wanders, and where exposure changes; a pixel that is never seen free counts as object."""
    pairs = turning(12, shadow=shadow, dim=dim)
    segmenter = TurntableSegmenter(Background.of([photo for photo, _ in pairs]))
    found = [segmenter.segment(photo) for photo, _ in pairs]
    overlaps = [intersection_over_union(made.mask, truth) for made, (_, truth) in zip(found, pairs, strict=True)]
    assert np.mean(overlaps) > (0.78 if shadow else 0.87)
    assert all((made.mask[truth > 0] > 0).mean() > 0.95 for made, (_, truth) in zip(found, pairs, strict=True))
    assert min(made.confidence for made in found) > 0.8


@pytest.mark.parametrize("params", [SegmentationParams(), SegmentationParams(mode="auto")])
def test_a_turntable_gets_masks_before_any_background(tmp_path: Path, params: SegmentationParams) -> None:
    """Every photo gets one, without a warning and unasked, although the backdrop is anything but plain."""
    pairs = turning()
    report, masks = run(tmp_path, [photo for photo, _ in pairs], params)
    assert masks["still_camera"] is True
    assert report.warnings == ()
    for entry, (_, truth) in zip(masks["masks"].values(), pairs, strict=True):
        mask = cv2.imread(str(tmp_path / "outputs" / entry["file"]), cv2.IMREAD_UNCHANGED)
        assert set(np.unique(mask)) == {0, 255}
        assert intersection_over_union(mask, truth) > 0.7


def test_without_masks_a_still_camera_is_a_warning(tmp_path: Path) -> None:
    """It names the photos and the option that helps."""
    report, masks = run(tmp_path / "tripod", [photo for photo, _ in turning()], SegmentationParams(mode="none"))
    (warning,) = report.warnings
    assert (warning.code, masks["masks"]) == ("MOVING_OBJECT", {})
    assert "shot 0.jpg" in warning.message and "shot 7.jpg" in warning.message
    assert "options.segmentation.mode `turntable`" in warning.hint


@pytest.mark.parametrize("mode", ["none", "turntable", "auto"])
def test_a_scene_in_which_nothing_moves_is_no_moving_object(tmp_path: Path, mode: str) -> None:
    """The same view again and again, but for noise: the advice is to walk, and neither masks nor a backdrop."""
    noise = [np.random.default_rng(i).normal(0, 4, (*SIZE, 3)) for i in range(6)]
    photos = [np.clip(texture(99) + values, 0, 255).astype(np.uint8) for values in noise]
    report, masks = run(tmp_path, photos, SegmentationParams.model_validate({"mode": mode}))
    (warning,) = report.warnings
    assert (warning.code, len(warning.photos), masks["masks"], masks["same_view"]) == ("SAME_VIEW", 6, {}, True)
    assert "another place" in warning.hint


@pytest.mark.parametrize("mode", ["none", "turntable"])
def test_photos_of_a_walk_get_no_masks(tmp_path: Path, mode: str) -> None:
    """And nothing is said about it."""
    report, masks = run(tmp_path, walking(), SegmentationParams.model_validate({"mode": mode}))
    assert (report.warnings, masks["masks"], report.summary["still_camera"]) == ((), {}, [])
