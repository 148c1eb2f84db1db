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

from services.ingest.capture_faults import Rated, Usual, capture_warnings, reason_to_drop
from services.ingest.decoding import UnusablePhotoError
from services.ingest.originals import Original, gather_originals
from services.ingest.params import IngestParams
from services.ingest.settings import IngestSettings
from services.ingest.working_images import Photo, make_working_image
from shared.contracts.manifest import ImageVerdict, StageReport
from shared.errors import CODES, PermanentError
from shared.photo_names import listed
from shared.runtime.workspace import Workspace

MIN_IMAGES = 3
_DOWNLOAD_SHARE = 0.6  # of the stage's progress
_DECODERS = 2  # photos in memory at once: a 100-megapixel photo takes up to a gigabyte while it is converted


@dataclass
class _Sorted:
    """Photos kept, in the order sent, why the others were not, and the figures of every photo that opened."""

    photos: list[Photo] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)


class IngestStage:
    """Fetches, checks and normalises photos."""

    name: ClassVar[str] = "ingest"
    version: ClassVar[str] = "3"
    Params: ClassVar[type[BaseModel]] = IngestParams
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"images": ("*",)}

    def run(self, workspace: Workspace, params: IngestParams) -> StageReport:
        """Writes `photos/` and `photos.json`. Raises PermanentError TOO_FEW_IMAGES, with every photo's reason."""
        settings = IngestSettings()
        names = [source.name for source in workspace.request().images]
        kept = _without_useless(_accepted(workspace, params, settings), workspace, params)
        if len(kept.photos) < MIN_IMAGES:
            raise _too_few(names, kept)
        entries = [photo.to_json() for photo in kept.photos]
        (workspace.outputs / "photos.json").write_text(json.dumps({"photos": entries}, indent=1))
        return _report(names, kept)


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
                result.figures[outcome.name] = outcome.quality.rounded()
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


def _without_useless(found: _Sorted, workspace: Workspace, params: IngestParams) -> _Sorted:
    """Without what was sent before and what no step can use. A second black photo is too dark: another copy of it would be no better."""
    copies = _copies(found.photos) if params.drop_duplicates else set()
    result = _Sorted(reasons=dict(found.reasons), figures=found.figures)
    usual = Usual.of([photo.quality for photo in found.photos if photo.name not in copies]) if found.photos else None
    for photo in found.photos:
        reason = reason_to_drop(photo.quality, usual) if params.drop_blurred and usual else None
        if photo.name in copies and reason not in ("TOO_DARK", "TOO_BRIGHT"):
            reason = "DUPLICATE"
        if reason is None:
            result.photos.append(photo)
        else:
            result.reasons[photo.name] = reason
            (workspace.outputs / photo.file).unlink()
    return result


def _copies(photos: list[Photo]) -> set[str]:
    """Names of the photos whose file or pixels came before."""
    copies, seen = set[str](), set[str]()
    for photo in photos:
        if {photo.sha256, photo.pixels_sha256} & seen:
            copies.add(photo.name)
        seen |= {photo.sha256, photo.pixels_sha256}
    return copies


def _too_few(names: list[str], kept: _Sorted) -> PermanentError:
    by_reason: dict[str, list[str]] = {}
    for name, reason in kept.reasons.items():
        by_reason.setdefault(reason, []).append(name)
    why = "".join(f" {reason}: {listed(dropped)}." for reason, dropped in by_reason.items())
    message = f"Only {len(kept.photos)} of {len(names)} photos can be used; at least {MIN_IMAGES} are needed.{why}"
    hints = [CODES[reason].hint for reason in by_reason if reason in CODES]
    hint = " ".join([CODES["TOO_FEW_IMAGES"].hint, *hints])
    return PermanentError("TOO_FEW_IMAGES", message, hint, report=_report(names, kept))


def _report(names: list[str], kept: _Sorted) -> StageReport:
    verdicts = [
        ImageVerdict(
            name=name,
            status="dropped" if name in kept.reasons else "accepted",
            reason=kept.reasons.get(name),
            figures=kept.figures.get(name, {}),
        )
        for name in names
    ]
    summary = {
        "submitted": len(names),
        "accepted": len(kept.photos),
        "dropped": dict(Counter(kept.reasons.values())),
        "sharpness_median": round(median(photo.quality.sharpness for photo in kept.photos), 2) if kept.photos else None,
        "with_focal_prior": sum(photo.focal_px is not None for photo in kept.photos),
    }
    engines = {name: version(name) for name in ("pillow", "pillow-heif", "opencv-python-headless")}
    warnings = capture_warnings([Rated(photo.name, photo.quality) for photo in kept.photos])
    return StageReport(summary=summary, images=tuple(verdicts), warnings=tuple(warnings), engines=engines)
