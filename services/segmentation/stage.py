"""Segmentation: working images in, a mask per photo out, where one is wanted and can be trusted."""

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import cv2
from pydantic import BaseModel

from services.segmentation.backdrop import BackdropSegmenter
from services.segmentation.mask import ObjectMask, Segmenter
from services.segmentation.onnx_model import OnnxSegmenter, find_model
from services.segmentation.params import SegmentationParams
from services.segmentation.settings import SegmentationSettings
from shared.contracts.manifest import StageReport, Warning
from shared.runtime.workspace import Workspace

# auto: where most photos have no plain backdrop the masks of the others are luck, however sure each looks (a patch of a textured table).
MIN_SHARE = 0.5


class SegmentationStage:
    """Makes masks; never paints them into photos."""

    name: ClassVar[str] = "segmentation"
    version: ClassVar[str] = "1"
    Params: ClassVar[type[BaseModel]] = SegmentationParams
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"ingest": ("photos.json", "photos/*")}

    def run(self, workspace: Workspace, params: SegmentationParams) -> StageReport:
        """Writes `masks/<stem>.png` for photos that have one, and `masks.json`. Raises PermanentError MODEL_UNUSABLE."""
        segmenter = _segmenter(params)
        photos = json.loads((workspace.inputs("ingest") / "photos.json").read_text())["photos"]
        kept: dict[str, dict[str, Any]] = {}
        unused: list[str] = []
        for done, photo in enumerate(photos if segmenter else [], start=1):
            assert segmenter is not None
            found = segmenter.segment(_read(workspace.inputs("ingest") / photo["file"]))
            if _is_usable(found, params):
                kept[photo["name"]] = _written(found, photo["file"], workspace.outputs)
            else:
                unused.append(photo["name"])
            workspace.progress(done / len(photos), f"{done} of {len(photos)} photos segmented")
        if params.mode == "auto" and len(kept) < MIN_SHARE * len(photos):
            unused = [photo["name"] for photo in photos]
            _discard(kept, workspace.outputs)
        (workspace.outputs / "masks.json").write_text(json.dumps({"mode": params.mode, "masks": kept}, indent=1))
        return _report(params, segmenter, kept, unused)


def _segmenter(params: SegmentationParams) -> Segmenter | None:
    if params.mode == "auto":
        return BackdropSegmenter(params.working_size, params.grabcut_iterations)
    if params.mode == "onnx":
        assert params.model is not None
        settings = SegmentationSettings()
        return OnnxSegmenter.load(params.model, find_model(params.model, settings), settings.threads or os.cpu_count() or 1)
    return None


def _read(path: Path) -> Any:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert image is not None, f"ingest wrote an image that cannot be read: {path.name}"
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _is_usable(found: ObjectMask, params: SegmentationParams) -> bool:
    return params.min_coverage <= found.coverage <= params.max_coverage and found.confidence >= params.min_confidence


def _written(found: ObjectMask, photo_file: str, outputs: Path) -> dict[str, Any]:
    file = f"masks/{Path(photo_file).stem}.png"
    (outputs / "masks").mkdir(exist_ok=True)
    cv2.imwrite(str(outputs / file), found.mask)
    return {"file": file, "coverage": round(found.coverage, 4), "confidence": round(found.confidence, 4)}


def _discard(kept: dict[str, dict[str, Any]], outputs: Path) -> None:
    for mask in kept.values():
        (outputs / mask["file"]).unlink()
    kept.clear()


def _report(params: SegmentationParams, segmenter: Segmenter | None, kept: dict[str, dict[str, Any]], unused: list[str]) -> StageReport:
    coverages = [mask["coverage"] for mask in kept.values()]
    summary: dict[str, Any] = {"mode": params.mode, "masks": len(kept), "unused": len(unused)}
    engines = {"opencv-python-headless": version("opencv-python-headless")}
    if coverages:
        summary["coverage_mean"] = round(sum(coverages) / len(coverages), 4)
    if isinstance(segmenter, OnnxSegmenter):
        summary["provider"] = segmenter.provider
        engines["onnxruntime"] = version("onnxruntime")
    warnings = (_mask_warning(unused),) if unused else ()
    return StageReport(summary=summary, warnings=warnings, engines=engines)


def _mask_warning(unused: list[str]) -> Warning:
    listed = ", ".join(unused[:10]) + (f" and {len(unused) - 10} more" if len(unused) > 10 else "")
    message = f"No mask that can be trusted for {len(unused)} photos, which are used whole: {listed}."
    return Warning(code="MASK_UNUSED", message=message, hint="Use a plain backdrop that differs from the object, or a model.")
