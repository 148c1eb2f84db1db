"""Ingest: URLs and uploads in, working images and photos.json out."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median
from typing import ClassVar

from pydantic import BaseModel

from services.ingest.decoding import UnusablePhotoError
from services.ingest.originals import Original, gather_originals
from services.ingest.params import IngestParams
from services.ingest.photo_quality import BLURRED_SHARE, CLIPPED_SHARE, is_hopeless
from services.ingest.settings import IngestSettings
from services.ingest.working_images import Photo, make_working_image
from shared.contracts.manifest import ImageVerdict, StageReport, Warning
from shared.errors import PermanentError
from shared.runtime.workspace import Workspace

MIN_IMAGES = 3
RECOMMENDED_IMAGES = 12
_DOWNLOAD_SHARE = 0.6  # of the stage's progress
_DECODERS = 2  # photos in memory at once: a 100-megapixel photo takes up to a gigabyte while it is converted


@dataclass
class _Sorted:
    """Photos kept, in the order sent, and why the others were not."""

    photos: list[Photo] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


class IngestStage:
    """Fetches, checks and normalises photos."""

    name: ClassVar[str] = "ingest"
    version: ClassVar[str] = "1"
    Params: ClassVar[type[BaseModel]] = IngestParams
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"images": ("*",)}

    def run(self, workspace: Workspace, params: IngestParams) -> StageReport:
        """Writes `photos/` and `photos.json`. Raises PermanentError TOO_FEW_IMAGES, with every photo's reason."""
        settings = IngestSettings()
        names = [source.name for source in workspace.request().images]
        kept = _without_blurred(_without_duplicates(_accepted(workspace, params, settings), workspace, params), workspace, params)
        report = _report(names, kept)
        if len(kept.photos) < MIN_IMAGES:
            raise PermanentError("TOO_FEW_IMAGES", f"{len(kept.photos)} of {len(names)} photos can be used.", report=report)
        entries = [photo.to_json() for photo in kept.photos]
        (workspace.outputs / "photos.json").write_text(json.dumps({"photos": entries}, indent=1))
        return report


def _accepted(workspace: Workspace, params: IngestParams, settings: IngestSettings) -> _Sorted:
    originals = _originals(workspace, settings)
    total, done = len(originals), 0

    def convert(original: Original) -> Photo | str:
        if original.path is None:
            return original.reason or "UNREACHABLE"
        try:
            return make_working_image(original, workspace.outputs, params, settings.max_image_megapixels)
        except UnusablePhotoError as error:
            return error.code
        finally:
            if original.path.is_relative_to(workspace.scratch):
                original.path.unlink(missing_ok=True)  # the disk need not hold every download twice

    result = _Sorted()
    with ThreadPoolExecutor(_DECODERS) as pool:
        for original, outcome in zip(originals, pool.map(convert, originals), strict=True):
            if isinstance(outcome, Photo):
                result.photos.append(outcome)
            else:
                result.reasons[original.name] = outcome
            done += 1
            workspace.progress(_DOWNLOAD_SHARE + (1 - _DOWNLOAD_SHARE) * done / total, f"{done} of {total} photos checked")
    return result


def _originals(workspace: Workspace, settings: IngestSettings) -> list[Original]:
    sources = workspace.request().images

    def tell(settled: int) -> None:
        workspace.progress(_DOWNLOAD_SHARE * settled / len(sources), f"{settled} of {len(sources)} photos fetched")

    return asyncio.run(gather_originals(sources, workspace.inputs("images"), workspace.scratch, settings, tell))


def _without_duplicates(found: _Sorted, workspace: Workspace, params: IngestParams) -> _Sorted:
    if not params.drop_duplicates:
        return found
    result, seen = _Sorted(reasons=dict(found.reasons)), set[str]()
    for photo in found.photos:
        if {photo.sha256, photo.pixels_sha256} & seen:
            result.reasons[photo.name] = "DUPLICATE"
            (workspace.outputs / photo.file).unlink()
        else:
            result.photos.append(photo)
        seen |= {photo.sha256, photo.pixels_sha256}
    return result


def _without_blurred(found: _Sorted, workspace: Workspace, params: IngestParams) -> _Sorted:
    if not params.drop_blurred or not found.photos:
        return found
    middle = median(photo.sharpness for photo in found.photos)
    result = _Sorted(reasons=dict(found.reasons))
    for photo in found.photos:
        if is_hopeless(photo.sharpness, middle):
            result.reasons[photo.name] = "TOO_BLURRED"
            (workspace.outputs / photo.file).unlink()
        else:
            result.photos.append(photo)
    return result


def _report(names: list[str], kept: _Sorted) -> StageReport:
    verdicts = [
        ImageVerdict(name=name, status="dropped", reason=kept.reasons[name])
        if name in kept.reasons
        else ImageVerdict(name=name, status="accepted")
        for name in names
    ]
    summary = {
        "submitted": len(names),
        "accepted": len(kept.photos),
        "dropped": dict(Counter(kept.reasons.values())),
        "sharpness_median": round(median(photo.sharpness for photo in kept.photos), 2) if kept.photos else None,
        "with_focal_prior": sum(photo.focal_px is not None for photo in kept.photos),
    }
    engines = {name: version(name) for name in ("pillow", "pillow-heif", "opencv-python-headless")}
    return StageReport(summary=summary, images=tuple(verdicts), warnings=tuple(_warnings(kept)), engines=engines)


def _warnings(kept: _Sorted) -> list[Warning]:
    warnings = []
    if 0 < len(kept.photos) < RECOMMENDED_IMAGES:
        message = f"{len(kept.photos)} photos can be used; {RECOMMENDED_IMAGES} or more are recommended."
        warnings.append(Warning(code="FEW_IMAGES", message=message, hint="Take photos all around the object, at two heights."))
    middle = median(photo.sharpness for photo in kept.photos) if kept.photos else 0.0
    blurred = [photo.name for photo in kept.photos if photo.sharpness < BLURRED_SHARE * middle]
    clipped = [photo.name for photo in kept.photos if photo.overexposed > CLIPPED_SHARE]
    if blurred:
        warnings.append(_about("BLURRED_PHOTOS", "Less sharp than the others", blurred, "Hold the camera still; use a shorter exposure."))
    if clipped:
        warnings.append(_about("OVEREXPOSED_PHOTOS", "Largely white", clipped, "Expose for the bright parts; white areas give no surface."))
    return warnings


def _about(code: str, what: str, names: list[str], hint: str) -> Warning:
    listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return Warning(code=code, message=f"{what} ({len(names)}): {listed}.", hint=hint)
