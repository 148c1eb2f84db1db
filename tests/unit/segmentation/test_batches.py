"""A network's masks, made in batches by several replicas, are those that one makes alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from services.segmentation.batches import LEAST_PHOTOS, ROUND
from services.segmentation.params import SegmentationParams
from services.segmentation.stage import SegmentationStage
from shared.contracts.manifest import StageReport
from shared.runtime.stage import Part
from shared.runtime.workspace import Workspace
from tests.unit.segmentation.photos_in_memory import run
from tests.unit.segmentation.test_segmentation_stage import brightness_model, model, photo_of_a_disc

STAGE = SegmentationStage()


def photos(count: int) -> list[np.ndarray]:
    """One in five is so bright that it has no mask."""
    return [photo_of_a_disc(i % 7)[0] if i % 5 else np.full((48, 64, 3), 250, np.uint8) for i in range(count)]


def only_what_it_needs(whole: Path, folder: Path, part: Part) -> Workspace:
    """A workspace with the part's declared inputs and no other."""
    for file in (part.needs or {})["ingest"]:
        target = folder / "inputs" / "ingest" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole / "inputs" / "ingest" / file, target)
    return Workspace(folder)


def in_parts(whole: Path, folder: Path, params: SegmentationParams) -> tuple[StageReport, Workspace]:
    """Every part in a folder of its own, then the join."""
    joined = Workspace(folder / "joined")
    (joined.root / "inputs" / "ingest").mkdir(parents=True)
    shutil.copy(whole / "inputs" / "ingest" / "photos.json", joined.inputs("ingest") / "photos.json")
    for part in STAGE.split(joined, params, ROUND):
        workspace = only_what_it_needs(whole, folder / part.name, part)
        STAGE.run_part(workspace, params, ROUND, part.name)
        shutil.copytree(workspace.outputs, joined.part(ROUND, part.name))
    return STAGE.join(joined, params), joined


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_batches_give_what_the_whole_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same report, the same files, byte for byte; the last batch is shorter."""
    brightness_model(tmp_path / "dark.onnx")
    monkeypatch.setenv("MESHWORK_MODEL_DIR", str(tmp_path))
    params = model(name="dark.onnx")
    report, masks = run(tmp_path / "whole", photos(LEAST_PHOTOS + 3), params)
    joined_report, joined = in_parts(tmp_path / "whole", tmp_path / "parts", params)
    assert joined_report == report
    assert files(joined.outputs) == files(tmp_path / "whole" / "outputs")
    assert 0 < len(masks["masks"]) < LEAST_PHOTOS + 3


@pytest.mark.parametrize(("mode", "count"), [("onnx", LEAST_PHOTOS - 1), ("turntable", 60), ("auto", 60), ("none", 60)])
def test_what_is_quick_or_looks_at_all_photos_is_not_shared(tmp_path: Path, mode: str, count: int) -> None:
    """Few photos, and modes without a network."""
    params = SegmentationParams(mode=mode, model={"name": "dark.onnx"} if mode == "onnx" else None)
    ingest = tmp_path / "inputs" / "ingest"
    ingest.mkdir(parents=True)
    listed = [{"name": f"{i}.jpg", "file": f"photos/{i:04d}.png"} for i in range(count)]
    (ingest / "photos.json").write_text(json.dumps({"photos": listed}))
    assert STAGE.split(Workspace(tmp_path), params, ROUND) == ()
