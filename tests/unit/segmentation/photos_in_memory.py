"""The stage on photos in memory, by hand."""

import json
from pathlib import Path

import cv2
import numpy as np

from services.segmentation.params import SegmentationParams
from services.segmentation.stage import SegmentationStage
from shared.contracts.manifest import StageReport
from shared.runtime.workspace import Workspace


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks."""
    return float(((a > 0) & (b > 0)).sum() / ((a > 0) | (b > 0)).sum())


def run(folder: Path, photos: list[np.ndarray], params: SegmentationParams) -> tuple[StageReport, dict]:
    """The report and masks.json for RGB photos named shot 0.jpg and on."""
    inputs = folder / "inputs" / "ingest"
    (inputs / "photos").mkdir(parents=True)
    entries = [{"name": f"shot {i}.jpg", "file": f"photos/{i:04d}.png"} for i in range(len(photos))]
    for entry, photo in zip(entries, photos, strict=True):
        cv2.imwrite(str(inputs / entry["file"]), cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
    (inputs / "photos.json").write_text(json.dumps({"photos": entries}))
    workspace = Workspace(folder)
    report = SegmentationStage().run(workspace, params)
    return report, json.loads((workspace.outputs / "masks.json").read_text())
