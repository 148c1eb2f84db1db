"""Whoever shares a reconstruction among replicas gets what one process makes, to the last bit."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import services.mvs.partition as partition
import services.mvs.rounds as rounds
from services.mvs.depth_maps import Scene
from services.mvs.handover import COARSEST, pack_map, read_scene, unpack_map, write_scene
from services.mvs.params import MvsParams
from services.mvs.region import Region, find_region
from services.mvs.stage import MvsStage
from shared.runtime.workspace import Workspace
from tests.support.in_parts import InParts

PARAMS = MvsParams(levels=(4, 2), min_speckle_px=10)
FindRegion = Callable[..., Region]


def _cut(find_region: FindRegion) -> FindRegion:
    """The region without a third of the object, which must be looked for beyond it."""

    def found(*arguments: object) -> Region:
        region = find_region(*arguments)
        assert region.box is not None
        return replace(region, box=region.box.between(np.array([-1.0, -0.4, -1.0]), np.array([1.0, 1.0, 1.0])))

    return found


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("sizes", "params", "cut", "rounds_made"),
    [
        (itertools.cycle((3,)), PARAMS, False, 6),
        (itertools.cycle((4, 3, 2, 1)), PARAMS, True, 8),
        (itertools.cycle((7, 1)), PARAMS.model_copy(update={"region": "off", "max_points": 20_000}), False, 5),
    ],
    ids=["orbit", "object-beyond-its-region", "whole-frames"],
)
def test_the_same_bytes_in_parts(
    sfm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: Iterator[int], params: MvsParams, cut: bool, rounds_made: int
) -> None:
    """Cloud, depth maps and region, whatever the batches; a part reads what it declared, and rounds that nobody needs are left out."""
    monkeypatch.setattr(partition, "VIEWS_PER_PART", dict(zip(MvsStage.rounds, sizes, strict=False)))
    monkeypatch.setattr(partition, "LEAST_VIEWS", 2)
    if cut:
        monkeypatch.setattr(rounds, "find_region", _cut(find_region))
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "sfm").symlink_to(sfm_folder)
    whole = Workspace(tmp_path)
    expected = MvsStage().run(whole, params)
    shared = InParts(MvsStage(), tmp_path / "inputs", tmp_path / "shared", params)
    made = shared.run()
    assert made is not None
    report, outputs = made
    assert sum(len(parts) > 0 for parts in shared.parts.values()) == rounds_made
    assert report.model_copy(update={"summary": {}}) == expected.model_copy(update={"summary": {}})
    assert {**report.summary, "seconds_per_phase": None} == {**expected.summary, "seconds_per_phase": None}
    assert _files(outputs) == _files(whole.outputs)
    assert len({part.weight for part in shared.parts["geometric"]}) > 1  # the heaviest are begun first


def test_few_photos_are_not_shared(sfm_folder: Path, tmp_path: Path) -> None:
    """What one worker ends sooner than the rounds would."""
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "sfm").symlink_to(sfm_folder)
    assert MvsStage().split(Workspace(tmp_path), PARAMS, "coarse") == ()


def test_batches_are_near_to_equal(scene: Scene) -> None:
    """Ten views make three parts of three or four; a view without sources is in none."""
    sizes = [len(own) for own in partition.batches(scene, "coarse").values()]
    assert sizes == [3, 3, 4]
    alone = replace(scene.selections[3], sources=())
    lonely = replace(scene, selections=[alone if i == 3 else selection for i, selection in enumerate(scene.selections)])
    assert [i for own in partition.batches(lonely, "coarse").values() for i in own] == [0, 1, 2, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(("photos", "parts"), [(10, 10), (128, 128), (129, 65), (300, 100), (1000, 250)])
def test_photos_are_parts_of_their_own_where_that_makes_enough(scene: Scene, photos: int, parts: int) -> None:
    """In a round that computes much; of many photos no more than four are one part."""
    many = replace(scene, selections=[scene.selections[0]] * photos)
    made = partition.batches(many, "geometric")
    assert len(made) == parts
    assert [i for own in made.values() for i in own] == list(range(photos))
    assert partition.makers(many, "geometric") == {i: part for part, own in made.items() for i in own}


def test_a_packed_map_comes_back(scene: Scene, tmp_path: Path) -> None:
    """Every pixel that has a depth, with its best sources; the others are nothing."""
    rng = np.random.default_rng(1)
    planes = rng.normal(1, 0.1, (7, 11, 4)).astype(np.float32)
    planes[rng.random((7, 11)) < 0.4] *= np.array([0, 1, 1, 1], np.float32)
    best = rng.integers(0, 4, (7, 11, 2)).astype(np.uint8)
    np.save(scene.path("coarsest", 0), planes)
    np.save(scene.path("best", 0), best)
    pack_map(scene, COARSEST, 0, tmp_path)
    (tmp_path / "there").mkdir()
    there = replace(scene, scratch=tmp_path / "there")
    unpack_map(there, COARSEST, 0, tmp_path)
    np.testing.assert_array_equal(there.load("coarsest", 0), np.where(planes[..., :1] != 0, planes, 0))
    np.testing.assert_array_equal(np.load(there.path("best", 0)), best)


def test_a_scene_comes_back(scene: Scene, sfm_folder: Path, tmp_path: Path) -> None:
    """To the last bit, or the maps would differ."""
    write_scene(scene, tmp_path)
    again = read_scene(tmp_path, sfm_folder, tmp_path, scene.params)
    assert again.selections == scene.selections
    assert again.region.as_json() == scene.region.as_json()
    assert read_scene(_written(replace(scene, region=Region(False)), tmp_path), sfm_folder, tmp_path, scene.params).region == Region(False)


def _written(scene: Scene, folder: Path) -> Path:
    write_scene(scene, folder)
    return folder
