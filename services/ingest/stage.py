"""Ingest: photos, archives and videos in, by URL or uploaded; working images and photos.json out."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median
from typing import ClassVar

from pydantic import BaseModel

from services.ingest.capture_faults import Rated, Usual, capture_warnings, reason_to_drop
from services.ingest.decoding import UnusablePhotoError
from services.ingest.expansion import expand
from services.ingest.originals import Original, gather_originals
from services.ingest.params import IngestParams
from services.ingest.settings import IngestSettings
from services.ingest.working_images import Photo, make_working_image
from shared.contracts.manifest import EXPANDED, ImageVerdict, StageReport
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
    version: ClassVar[str] = "6"
    Params: ClassVar[type[BaseModel]] = IngestParams
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"images": ("*",)}

    def run(self, workspace: Workspace, params: IngestParams) -> StageReport:
        """Writes `photos/` and `photos.json`. Raises PermanentError TOO_FEW_IMAGES, with every photo's reason."""
        settings = IngestSettings()
        deadline = time.monotonic() + settings.ingest_timeout.total_seconds()
        originals = _originals(workspace, params, settings)
        kept = _without_useless(_accepted(originals, workspace, params, settings.max_image_megapixels, deadline), workspace, params)
        if len(kept.photos) < MIN_IMAGES:
            raise _too_few(originals, kept)
        entries = [photo.to_json() for photo in kept.photos]
        (workspace.outputs / "photos.json").write_text(json.dumps({"photos": entries}, indent=1))
        return _report(originals, kept)


def _accepted(originals: Sequence[Original], workspace: Workspace, params: IngestParams, max_megapixels: float, deadline: float) -> _Sorted:
    """What opened until the deadline, by the monotonic clock."""
    photos = _photos(originals)
    total, done = len(photos), 0

    def convert(original: Original) -> Photo | str:
        if original.path is None:
            return original.reason or "UNREACHABLE"
        try:
            if time.monotonic() > deadline:
                return "NO_TIME_LEFT"
            return make_working_image(original, workspace.outputs, params, max_megapixels)
        except UnusablePhotoError as error:
            return error.code
        finally:
            if original.path.is_relative_to(workspace.scratch):
                original.path.unlink(missing_ok=True)  # the disk need not hold every download twice

    result = _Sorted()
    with ThreadPoolExecutor(_DECODERS) as pool:
        for original, outcome in zip(photos, pool.map(convert, photos), strict=True):
            if isinstance(outcome, Photo):
                result.photos.append(outcome)
                result.figures[outcome.name] = outcome.quality.rounded()
            else:
                result.reasons[original.name] = outcome
            done += 1
            workspace.progress(_DOWNLOAD_SHARE + (1 - _DOWNLOAD_SHARE) * done / total, f"{done} of {total} photos checked")
    return result


def _photos(originals: Sequence[Original]) -> list[Original]:
    return [original for original in originals if not original.expanded]


def _originals(workspace: Workspace, params: IngestParams, settings: IngestSettings) -> list[Original]:
    """Everything that was sent, archives and videos followed by what they held."""
    sources = workspace.request().images

    def tell(settled: int) -> None:
        workspace.progress(_DOWNLOAD_SHARE * settled / len(sources), f"{settled} of {len(sources)} photos fetched")

    gathered = asyncio.run(gather_originals(sources, workspace.inputs("images"), workspace.scratch, settings, tell))
    return expand(gathered, workspace.scratch, params, settings, lambda message: workspace.progress(_DOWNLOAD_SHARE, message))


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


def _too_few(originals: Sequence[Original], kept: _Sorted) -> PermanentError:
    by_reason: dict[str, list[str]] = {}
    for name, reason in kept.reasons.items():
        by_reason.setdefault(reason, []).append(name)
    why = "".join(f" {reason}: {listed(dropped)}." for reason, dropped in by_reason.items())
    message = f"Only {len(kept.photos)} of {len(_photos(originals))} photos can be used; at least {MIN_IMAGES} are needed.{why}"
    hints = [CODES[reason].hint for reason in by_reason if reason in CODES]
    hint = " ".join([CODES["TOO_FEW_IMAGES"].hint, *hints])
    return PermanentError("TOO_FEW_IMAGES", message, hint, report=_report(originals, kept))


def _report(originals: Sequence[Original], kept: _Sorted) -> StageReport:
    summary = {
        "submitted": len(_photos(originals)),
        "accepted": len(kept.photos),
        "dropped": dict(Counter(kept.reasons.values())),
        "sharpness_median": round(median(photo.quality.sharpness for photo in kept.photos), 2) if kept.photos else None,
        "with_focal_prior": sum(photo.focal_px is not None for photo in kept.photos),
    }
    engines = {name: version(name) for name in ("pillow", "pillow-heif", "opencv-python-headless")}
    warnings = capture_warnings([Rated(photo.name, photo.quality) for photo in kept.photos])
    verdicts = tuple(_verdict(original, kept) for original in originals)
    return StageReport(summary=summary, images=verdicts, warnings=tuple(warnings), engines=engines)


def _verdict(original: Original, kept: _Sorted) -> ImageVerdict:
    if original.expanded:
        return ImageVerdict(name=original.name, status=EXPANDED)
    reason = kept.reasons.get(original.name)
    status, figures = "dropped" if reason else "accepted", kept.figures.get(original.name, {})
    return ImageVerdict(name=original.name, status=status, reason=reason, figures=figures, source=original.source)
