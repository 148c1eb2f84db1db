"""Segmentation: working images in, a mask per photo out, where one is wanted and can be trusted."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import cv2
from pydantic import BaseModel

from services.segmentation.auto import MIN_SHARE, SegmenterOf, all_show_the_same, auto_segmenters, read_photo, tripod_groups
from services.segmentation.batches import LEAST_PHOTOS, ROUND, Photo, batches, hand_over, parts_of, photos_of, taken_over
from services.segmentation.mask import ObjectMask
from services.segmentation.onnx_model import OnnxSegmenter, find_model
from services.segmentation.params import SegmentationParams
from services.segmentation.settings import SegmentationSettings
from shared.contracts.manifest import StageReport, Warning
from shared.photo_names import listed
from shared.runtime.stage import Part
from shared.runtime.workspace import Workspace
from shared.thread_count import thread_count


class SegmentationStage:
    """Makes masks; never paints them into photos."""

    name: ClassVar[str] = "segmentation"
    version: ClassVar[str] = "5"
    Params: ClassVar[type[BaseModel]] = SegmentationParams
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"ingest": ("photos.json", "photos/*")}
    rounds: ClassVar[tuple[str, ...]] = (ROUND,)
    split_needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"ingest": ("photos.json",)}
    least_inputs: ClassVar[tuple[str, int]] = ("ingest/photos/*", LEAST_PHOTOS)
    join_needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"ingest": ("photos.json",), f"parts/{ROUND}": ("*",)}

    def run(self, workspace: Workspace, params: SegmentationParams) -> StageReport:
        """Writes `masks/<stem>.png` for photos that have one, and `masks.json`. Raises PermanentError MODEL_UNUSABLE."""
        photos = photos_of(workspace)
        files = _files(workspace, photos)
        groups = tripod_groups(files) if params.mode != "onnx" else []
        found = _Found(names=[photo["name"] for photo in photos], still=groups)
        if params.mode in ("auto", "onnx") or (params.mode == "turntable" and groups):
            found.provider = _segment(workspace, params, files, found)
            if params.mode != "onnx" and len(found.masks) < MIN_SHARE * len(photos):
                found.discard(workspace.outputs)
        found.same_view = not found.masks and all_show_the_same(files, groups)
        return _listed(workspace, params, found)

    def split(self, workspace: Workspace, params: SegmentationParams, round: str) -> tuple[Part, ...]:
        """Batches of photos, for a network alone (batches.py)."""
        return parts_of(photos_of(workspace), params)

    def run_part(self, workspace: Workspace, params: SegmentationParams, round: str, part: str) -> None:
        """Writes a batch's masks, and which photos have one. Raises as `run` does."""
        photos = batches(photos_of(workspace))[part]
        found = _Found(names=[photo["name"] for photo in photos], still=[])
        found.provider = _segment(workspace, params, _files(workspace, photos), found)
        hand_over(workspace.outputs, {"masks": found.masks, "unused": found.unused, "provider": found.provider})

    def join(self, workspace: Workspace, params: SegmentationParams) -> StageReport:
        """Writes what `run` writes."""
        photos = photos_of(workspace)
        found = _Found(names=[photo["name"] for photo in photos], still=[])
        for part in batches(photos):
            of_part = taken_over(workspace, part)
            found.masks |= of_part["masks"]
            found.unused += of_part["unused"]
            found.provider = of_part["provider"]
        return _listed(workspace, params, found)


@dataclass
class _Found:
    """What became of each photo. `still`: indices of photos that a camera took from one place, group by group."""

    names: list[str]
    still: list[list[int]]
    same_view: bool = False  # nothing moved before that camera
    masks: dict[str, dict[str, Any]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    provider: str | None = None

    def discard(self, outputs: Path) -> None:
        """Does without any mask."""
        for mask in self.masks.values():
            (outputs / mask["file"]).unlink()
        self.masks.clear()
        self.unused = list(self.names)


def _files(workspace: Workspace, photos: Sequence[Photo]) -> list[Path]:
    return [workspace.inputs("ingest") / photo["file"] for photo in photos]


def _listed(workspace: Workspace, params: SegmentationParams, found: _Found) -> StageReport:
    listing = {"mode": params.mode, "still_camera": bool(found.still), "same_view": found.same_view, "masks": found.masks}
    (workspace.outputs / "masks.json").write_text(json.dumps(listing, indent=1))
    return _report(params, found)


def _segment(workspace: Workspace, params: SegmentationParams, files: list[Path], found: _Found) -> str | None:
    """Masks of all photos; which of onnxruntime's providers made them."""
    segmenter_of, provider = _segmenters(workspace, params, files, found.still)
    for index, (name, path) in enumerate(zip(found.names, files, strict=True)):
        segmenter = segmenter_of(index)
        made = segmenter.segment(read_photo(path)) if segmenter else None
        if made is not None and _is_usable(made, params):
            found.masks[name] = _written(made, path, workspace.outputs)
        else:
            found.unused.append(name)
        workspace.progress((index + 1) / len(files), f"{index + 1} of {len(files)} photos segmented")
    return provider


def _segmenters(
    workspace: Workspace, params: SegmentationParams, files: list[Path], groups: list[list[int]]
) -> tuple[SegmenterOf, str | None]:
    if params.mode != "onnx":
        return auto_segmenters(files, groups, params), None
    assert params.model is not None
    settings = SegmentationSettings()
    network = OnnxSegmenter.load(params.model, find_model(params.model, settings, workspace.scratch), thread_count())
    return lambda index: network, network.provider


def _is_usable(found: ObjectMask, params: SegmentationParams) -> bool:
    return params.min_coverage <= found.coverage <= params.max_coverage and found.confidence >= params.min_confidence


def _written(found: ObjectMask, photo: Path, outputs: Path) -> dict[str, Any]:
    file = f"masks/{photo.stem}.png"
    (outputs / "masks").mkdir(exist_ok=True)
    cv2.imwrite(str(outputs / file), found.mask)
    return {"file": file, "coverage": round(found.coverage, 4), "confidence": round(found.confidence, 4)}


def _report(params: SegmentationParams, found: _Found) -> StageReport:
    coverages = [mask["coverage"] for mask in found.masks.values()]
    summary: dict[str, Any] = {
        "mode": params.mode,
        "masks": len(found.masks),
        "unused": len(found.unused),
        "still_camera": [len(group) for group in found.still],
    }
    engines = {"opencv-python-headless": version("opencv-python-headless")}
    if coverages:
        summary["coverage_mean"] = round(sum(coverages) / len(coverages), 4)
    if found.provider is not None:
        summary["provider"] = found.provider
        engines["onnxruntime"] = version("onnxruntime")
    return StageReport(summary=summary, warnings=tuple(_warnings(params, found)), engines=engines)


def _warnings(params: SegmentationParams, found: _Found) -> Iterator[Warning]:
    if found.unused and not found.same_view:
        message = f"No mask that can be trusted for {len(found.unused)} photos, which are used whole: {listed(found.unused)}."
        hint = "Use a plain backdrop that differs from the object, or a model."
        yield Warning(code="MASK_UNUSED", message=message, hint=hint, photos=tuple(found.unused))
    if found.still and not found.masks:
        names = [found.names[index] for group in found.still for index in group]
        if found.same_view:
            message = f"The camera stood still and nothing moved: these photos show the same view: {listed(names)}."
            hint = "Walk around the object: take each photo from another place, in steps of 10 to 15 degrees."
            yield Warning(code="SAME_VIEW", message=message, hint=hint, photos=tuple(names))
            return
        message = f"The camera stood still while the object turned or moved, before a background that did not, in {listed(names)}."
        again = "Send them again with options.segmentation.mode `turntable`, which leaves the background out; or "
        instead = again if params.mode == "none" else ""
        hint = f"{instead}use a plain backdrop without texture; or leave the object where it is and walk around it."
        yield Warning(code="MOVING_OBJECT", message=message, hint=hint[0].upper() + hint[1:], photos=tuple(names))
