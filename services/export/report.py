"""report.json: what a caller needs to know to trust the model, from what every stage said."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.export.coverage import camera_coverage
from services.export.verdict import judge, verdict_of
from shared.contracts.manifest import ImageVerdict, Manifest
from shared.contracts.request import JobRequest
from shared.errors import CODES
from shared.photo_names import names_in_job

Json = dict[str, Any]

MESH_FACTS = ("triangles", "vertices", "watertight", "open_edges", "isolated", "isolation", "looked_through")


def build_report(
    request: JobRequest, steps: Sequence[Manifest], cameras: Mapping[str, Any], scale: Mapping[str, Any], delivered: Json
) -> Json:
    """The content of report.json. `cameras`: `images` of cameras.json; `delivered`: facts about the files made here."""
    summaries: dict[str, Json] = {manifest.stage: dict(manifest.report.summary) for manifest in steps}
    sfm, mvs, post = (summaries.get(stage, {}) for stage in ("sfm", "mvs", "postprocess"))
    facts: Json = {
        "images": image_facts(request, steps, list(cameras)),
        "cameras": {
            "sparse_points": first_of(sfm, "points"),
            **{name: first_of(sfm, name) for name in ("reprojection_error_px", "track_length", "components")},
        },
        "cloud": {"dense_points": first_of(mvs, "points", "dense_points"), "delivered_points": delivered.get("points")},
    }
    if post:
        facts["mesh"] = {name: post.get(name) for name in MESH_FACTS}
        facts["mesh"]["relief"] = delivered.get("relief")
        facts["texture"] = {
            "size_px": post.get("texture_size"),
            "seen": post.get("texture_seen"),
            "texels_per_unit": post.get("texels_per_unit"),
        }
        facts["coverage"] = camera_coverage(cameras)
        facts["fidelity"] = {"held_out_psnr_db": post.get("held_out_psnr_db")}
        facts["omissions"] = {name: post.get(name) for name in ("gap_below", "lost_points", "middle_covered")}
    facts["warnings"] = [warning.model_dump(mode="json") for manifest in steps for warning in manifest.report.warnings]
    reasons = judge(facts)
    return {
        "verdict": verdict_of(reasons),
        "reasons": [reason.as_json() for reason in reasons],
        "pipeline": request.pipeline,
        "preset": request.preset,
        **facts,
        "scale": dict(scale),
        "stages": [stage_facts(manifest) for manifest in steps],
    }


def image_facts(request: JobRequest, steps: Sequence[Manifest], registered: Sequence[str]) -> Json:
    """Photos submitted, used, registered, each that is not, with its reason, and what was measured in every photo."""
    known, names = set(registered), names_in_job(request, steps)
    verdicts: dict[str, ImageVerdict] = {verdict.name: verdict for manifest in steps for verdict in manifest.report.images}
    lost = [name for name in names if name not in known]
    reasons = {name: (verdicts[name].reason if name in verdicts else None) or "NOT_REGISTERED" for name in lost}
    refused = sum(reason != "NOT_REGISTERED" for reason in reasons.values())
    figures = figures_of_photos(steps)
    return {
        "submitted": len(names),
        "used": len(names) - refused,
        "registered": len(known),
        "dropped": [
            {"name": name, "reason": reason, "hint": CODES[reason].hint if reason in CODES else ""} for name, reason in reasons.items()
        ],
        "photos": [
            {
                "name": name,
                "status": "registered" if name in known else "dropped",
                "reason": reasons.get(name),
                **figures.get(name, {}),
            }
            for name in names
        ],
    }


def figures_of_photos(steps: Sequence[Manifest]) -> dict[str, dict[str, float]]:
    """What the steps measured in each photo, by name. `surface`: share of its pixels on the object whose depth other photos confirm."""
    figures: dict[str, dict[str, float]] = {}
    for manifest in steps:
        for verdict in manifest.report.images:
            figures.setdefault(verdict.name, {}).update(verdict.figures)
        surface = manifest.report.summary.get("completeness_per_view")
        for name, share in surface.items() if isinstance(surface, dict) else ():
            if isinstance(share, int | float):
                figures.setdefault(name, {})["surface"] = share
    return figures


def stage_facts(manifest: Manifest) -> Json:
    """What a step cost and made it."""
    return {
        "name": manifest.step,
        "version": manifest.stage_version,
        "seconds": round(manifest.seconds, 2),
        "peak_memory_bytes": manifest.peak_memory_bytes,
        "attempts": manifest.tries,
        "reduction": manifest.reduction,
        "reused_from": manifest.reused_from,
        "engines": dict(manifest.report.engines),
        "summary": dict(manifest.report.summary),
    }


def first_of(summary: Mapping[str, Any], *names: str) -> Any:
    """The first of these numbers that a stage told."""
    return next((summary[name] for name in names if summary.get(name) is not None), None)
