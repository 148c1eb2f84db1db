"""Whoever shares a reconstruction among replicas gets what one process makes, to the last bit."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import services.sfm.partition as partition
from services.sfm.colmap import pycolmap
from services.sfm.features import Features
from services.sfm.handover import read_largest, write_features
from services.sfm.pairs import seeks_look_alikes, select_pairs
from services.sfm.params import SfmParams
from services.sfm.stage import SfmStage
from shared.contracts.manifest import StageReport
from shared.errors import PermanentError
from shared.runtime.workspace import Workspace
from tests.support.in_parts import InParts
from tests.unit.sfm.corner_room import View, around, picture, write_ingest
from tests.unit.sfm.test_sfm_stage import without_overlap

FEW = SfmParams(max_num_features=700)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven photos in three parts, their pairs in four or five."""
    monkeypatch.setattr(partition, "PHOTOS_PER_PART", 3)
    monkeypatch.setattr(partition, "PAIRS_PER_PART", 5)
    monkeypatch.setattr(partition, "LEAST_PHOTOS", 2)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Six of the corner, and one of something else."""
    return [*(picture(view) for view in around(6, k=-0.05)), without_overlap(5)[:360, :480]]


def with_masks(folder: Path, count: int) -> Path:
    """A disc for each of the first `count` photos."""
    masks = folder / "inputs" / "segmentation" / "masks"
    masks.mkdir(parents=True)
    listed = {}
    for i in range(count):
        cv2.imwrite(str(masks / f"{i:04d}.png"), cv2.circle(np.zeros((360, 480), np.uint8), (240, 180), 150, 255, cv2.FILLED))
        listed[f"v{i}.png"] = {"file": f"masks/{i:04d}.png", "coverage": 0.4, "confidence": 1.0}
    (masks.parent / "masks.json").write_text(json.dumps({"mode": "auto", "masks": listed}))
    return folder


def in_parts(folder: Path, params: SfmParams, reduction: int = 0) -> tuple[StageReport, Path, InParts]:
    shared = InParts(SfmStage(), folder / "inputs", folder / "shared", params, reduction)
    made = shared.run()
    assert made is not None
    return *made, shared


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("changed", "masks", "reduction", "attempts"),
    [
        ({"retry_below": 0.8}, 0, 0, ["first incremental"]),
        ({"retry_below": 0.8, "matching": "sequential", "sequential_overlap": 2}, 4, 1, ["first incremental"]),
        ({"max_num_features": 400, "retry_num_features": 700}, 0, 0, ["first incremental", "second incremental"]),
    ],
    ids=["all-pairs", "look-alikes-masks-less-memory", "second-try"],
)
def test_the_same_bytes_in_parts(
    tmp_path: Path, pictures: list[np.ndarray], changed: dict[str, Any], masks: int, reduction: int, attempts: list[str]
) -> None:
    """Cameras, photos, sparse model and report; a part reads what it declared. The second try, where it is needed, is the join's."""
    params = FEW.model_copy(update=changed)
    folder = with_masks(write_ingest(tmp_path, around(7, k=-0.05), pictures), masks)
    expected = SfmStage().run(Workspace(folder, reduction=reduction), params)
    report, outputs, shared = in_parts(folder, params, reduction)
    assert report == expected
    assert files(outputs) == files(folder / "outputs")
    assert len(shared.parts["features"]) == 3 and len(shared.parts["matching"]) > 1
    assert [tried["attempt"] for tried in report.summary["attempts"]] == attempts  # type: ignore[union-attr,index,call-overload]


def test_descriptors_are_compared_by_one_thread(tmp_path: Path, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lose matches now and then, which no test would see for hundreds of runs."""
    match, told = pycolmap.match_image_pairs, []

    def watched(*arguments: Any, matching_options: Any, **others: Any) -> None:
        told.append(matching_options.num_threads)
        match(*arguments, matching_options=matching_options, **others)

    monkeypatch.setattr(pycolmap, "match_image_pairs", watched)
    monkeypatch.setenv("MESHWORK_THREADS", "2")
    SfmStage().run(Workspace(write_ingest(tmp_path, around(7, k=-0.05), pictures)), FEW)
    assert set(told) == {1}


def test_what_run_refuses_the_join_refuses(tmp_path: Path) -> None:
    """The same code, words and verdicts."""
    views = [View(np.zeros(3), np.eye(3), 500.0, 0.0, 640, 480)] * 4
    folder = write_ingest(tmp_path, views, [without_overlap(seed) for seed in range(4)])
    with pytest.raises(PermanentError) as alone:
        SfmStage().run(Workspace(folder), FEW)
    with pytest.raises(PermanentError) as shared:
        in_parts(folder, FEW)
    assert alone.value.code == "TOO_FEW_REGISTERED"
    for said in ("code", "message", "hint", "report"):
        assert getattr(shared.value, said) == getattr(alone.value, said)


def test_a_photo_that_cannot_be_read_fails_its_part_as_it_fails_the_whole(tmp_path: Path) -> None:
    """The worker retries both in the same way."""
    folder = write_ingest(tmp_path, around(4), [np.zeros((360, 480, 3), np.uint8)] * 4)
    (folder / "inputs" / "ingest" / "photos" / "0003.png").write_bytes(b"no picture")
    with pytest.raises(OSError, match="cannot read working image"):
        SfmStage().run(Workspace(folder), FEW)
    with pytest.raises(OSError, match="cannot read working image"):
        in_parts(folder, FEW)


def test_few_photos_are_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one worker ends sooner than the rounds would."""
    monkeypatch.setattr(partition, "LEAST_PHOTOS", 8)
    assert SfmStage().split(Workspace(write_ingest(tmp_path, around(7), [np.zeros((360, 480, 3), np.uint8)] * 7)), FEW, "features") == ()


@pytest.mark.parametrize("count", [2, 7, 61])
def test_batches_cover_everything_once(count: int) -> None:
    """Every photo in one part, every pair in one, near to equal in number and in their order."""
    photos: list[Any] = [None] * count
    assert [i for own in partition.photo_batches(photos).values() for i in own] == list(range(count))
    pairs = list(combinations(range(count), 2))
    batches = partition.pair_batches(pairs)
    assert [pair for own in batches.values() for pair in own] == pairs
    sizes = {len(own) for own in batches.values()}
    assert max(sizes) <= 5 and max(sizes) - min(sizes) <= 1


def test_a_few_features_choose_the_same_pairs(tmp_path: Path) -> None:
    """The largest of each photo, as they are handed over, are all that a quick look compares."""
    random = np.random.default_rng(2)
    scenes = random.integers(0, 200, (3, 500, 128))
    photos = []
    for i in range(13):
        shape = np.column_stack([random.uniform(0, 400, (500, 2)), random.integers(1, 20, 500), random.uniform(0, 6, 500)])
        noisy = np.clip(scenes[i % 3] + random.normal(0, 8, (500, 128)), 0, 255)
        photos.append(Features(shape.astype(np.float32), noisy.astype(np.uint8), True))
        write_features(photos[-1], i, tmp_path)
    handed_over = [read_largest(i, tmp_path) for i in range(13)]
    assert max(len(few.descriptors) for few in handed_over) == 384
    assert select_pairs(handed_over, SfmParams()) == select_pairs(photos, SfmParams())
    assert not seeks_look_alikes(13, SfmParams()) and seeks_look_alikes(61, SfmParams())
