"""Pass, warn or fail: a completed model is judged by numbers, each with a reason and a hint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from shared.photo_names import listed

Verdict = Literal["pass", "warn", "fail"]

RECOMMENDED_IMAGES = 12
FAIL_REGISTERED = 0.5  # any photo less than all is a warning: what it showed may be missing
WARN_DROPPED = 0.25  # of the photos sent, useless in themselves: one bad photo among many is no reason to doubt the model
WARN_REPROJECTION_PX = 1.5
WARN_TRACK_LENGTH = 2.5
WARN_PSNR_DB, FAIL_PSNR_DB = 18.0, 10.0
WARN_SEEN = 0.5  # an object's underside is never seen; half of the surface is another matter
WARN_SURFACE = 0.3  # of a photo's pixels on the object have a depth that other photos confirm
OBJECT_SPAN_DEG = 240.0  # viewing directions around an object; with less, a side of it was never seen
FLAT = 0.003  # relief (rms, of the diagonal) of a picture; a facade has 0.02
SAME_PLACE_DEG, SAME_PLACE_BASELINE = 5.0, 0.05  # cameras that look one way from one place
WARN_GAP = 0.03  # of the diagonal between an object and its support plane: whole models have 0.000
WARN_LOST = 0.01  # of the confirmed points are not on the model: at most 0.0004 where nothing is missing
WARN_THROUGH, FAIL_THROUGH = 0.04, 0.15  # of the surface: at most 0.012 of good captures, 0.09 of two objects, 0.23 of one that was moved
WARN_MIDDLE, FAIL_MIDDLE = 0.7, 0.5  # of what the middle of the photos shows is in the model: 0.99 of good scenes, 0.89 of four photos

# Warnings of earlier steps that say the same as a check here, which knows more.
_SAID_BY = {"NOT_REGISTERED": "FEW_REGISTERED"}
# With these, what was reconstructed is hardly what was meant, unless the model proves itself on photos that were kept out.
_FATAL = {"MIRROR_LIKE", "MOVING_OBJECT"}
PROVEN_PSNR_DB = 22.0


@dataclass(frozen=True)
class Reason:
    """Why a model is not simply good. The message names some photos; the report's `images` and `warnings` name all."""

    level: Literal["warn", "fail"]
    code: str
    message: str
    hint: str

    def as_json(self) -> dict[str, str]:
        """As it stands in the report."""
        return {"level": self.level, "code": self.code, "message": self.message, "hint": self.hint}


def judge(facts: Mapping[str, Any]) -> list[Reason]:
    """Every reason to doubt the model, from the facts of the report and the warnings of the steps."""
    checked = [reason for check in _CHECKS if (reason := check(facts)) is not None]
    said = {reason.code for reason in checked}
    warned = [warning for warning in facts.get("warnings", ()) if _SAID_BY.get(warning["code"], warning["code"]) not in said]
    proven = (facts.get("fidelity", {}).get("held_out_psnr_db") or 0.0) >= PROVEN_PSNR_DB
    return [*checked, *(_of_warning(warning, proven) for warning in warned)]


def _of_warning(warning: Mapping[str, Any], proven: bool) -> Reason:
    level: Literal["warn", "fail"] = "fail" if warning["code"] in _FATAL and not proven else "warn"
    return Reason(level, warning["code"], warning["message"], warning["hint"])


def verdict_of(reasons: list[Reason]) -> Verdict:
    """The worst of the reasons' levels."""
    levels = {reason.level for reason in reasons}
    return "fail" if "fail" in levels else "warn" if "warn" in levels else "pass"


def _registered(facts: Mapping[str, Any]) -> Reason | None:
    images = facts["images"]
    ratio = images["registered"] / max(images["used"], 1)
    if ratio >= 1:
        return None
    names = [photo["name"] for photo in images.get("dropped", ()) if photo["reason"] == "NOT_REGISTERED"]
    message = f"{images['registered']} of {images['used']} photos could be placed; not these: {listed(names)}."
    hint = "Take more photos between these and their neighbours: 60 to 80 % overlap, sharp, with texture in view."
    return Reason("fail" if ratio < FAIL_REGISTERED else "warn", "FEW_REGISTERED", message, hint)


def _few_images(facts: Mapping[str, Any]) -> Reason | None:
    placed = facts["images"]["registered"]
    if placed >= RECOMMENDED_IMAGES:
        return None
    return Reason(
        "warn", "FEW_IMAGES", f"The model is made from only {placed} photos.", f"Send {RECOMMENDED_IMAGES} or more, all around the object."
    )


def _dropped(facts: Mapping[str, Any]) -> Reason | None:
    lost = [photo for photo in facts["images"].get("dropped", ()) if photo["reason"] != "NOT_REGISTERED"]
    if len(lost) <= WARN_DROPPED * facts["images"]["submitted"]:
        return None
    by_reason: dict[str, list[str]] = {}
    for photo in lost:
        by_reason.setdefault(photo["reason"], []).append(photo["name"])
    why = "; ".join(f"{reason}: {listed(names, 5)}" for reason, names in by_reason.items())
    message = f"{len(lost)} of {facts['images']['submitted']} photos could not be used. {why}."
    return Reason("warn", "PHOTOS_DROPPED", message, " ".join(dict.fromkeys(photo["hint"] for photo in lost if photo["hint"])))


def _reprojection(facts: Mapping[str, Any]) -> Reason | None:
    error = facts["cameras"]["reprojection_error_px"]
    if error is None or error <= WARN_REPROJECTION_PX:
        return None
    return Reason(
        "warn",
        "HIGH_REPROJECTION_ERROR",
        f"Cameras fit the photos to {error:.2f} px only.",
        "Use one camera without zooming; give its intrinsics.",
    )


def _tracks(facts: Mapping[str, Any]) -> Reason | None:
    length = facts["cameras"]["track_length"]
    if length is None or length >= WARN_TRACK_LENGTH:
        return None
    return Reason("warn", "SHORT_TRACKS", f"Points are seen in {length:.1f} photos on average.", "Move less from one photo to the next.")


def _surface(facts: Mapping[str, Any]) -> Reason | None:
    found = {photo["name"]: photo["surface"] for photo in facts["images"].get("photos", ()) if "surface" in photo}
    if not found or sum(found.values()) / len(found) >= WARN_SURFACE:
        return None
    names = [name for name, share in sorted(found.items(), key=lambda item: item[1]) if share < WARN_SURFACE]
    message = f"Little of what these photos show could be matched in others, the first least: {listed(names)}."
    hint = "Use matt, textured surfaces, even light and more overlap; the model may have holes where these photos look."
    return Reason("warn", "SPARSE_SURFACE", message, hint)


def _fidelity(facts: Mapping[str, Any]) -> Reason | None:
    psnr = facts.get("fidelity", {}).get("held_out_psnr_db")
    if psnr is None or psnr >= WARN_PSNR_DB:
        return None
    message = f"The model predicts photos that were kept out to {psnr:.1f} dB only."
    hint = "Keep light and object still; matt surfaces, sharp photos and more overlap help."
    return Reason("fail" if psnr < FAIL_PSNR_DB else "warn", "LOW_FIDELITY", message, hint)


def _unseen(facts: Mapping[str, Any]) -> Reason | None:
    seen = facts.get("texture", {}).get("seen")
    if seen is None or seen >= WARN_SEEN:
        return None
    return Reason("warn", "MUCH_UNSEEN", f"Photos cover {100 * seen:.0f} % of the surface.", "Photograph the sides that are missing too.")


def _one_sided(facts: Mapping[str, Any]) -> Reason | None:
    coverage = facts.get("coverage")
    if coverage is None:
        return None
    if coverage["direction_span_deg"] < SAME_PLACE_DEG and coverage["baseline"] < SAME_PLACE_BASELINE:
        hint = "Move the camera sideways between photos; zooming, cropping and turning on the spot show no depth."
        return Reason("fail", "CAMERA_DID_NOT_MOVE", "All photos look one way from nearly one place: their depth is a guess.", hint)
    span, mesh = coverage["azimuth_span_deg"], facts.get("mesh", {})
    has_no_other_side = not mesh.get("isolated") and (mesh.get("isolation") == "scene" or span == 0)  # 0: all look down
    if span >= OBJECT_SPAN_DEG or has_no_other_side:
        return None
    message = f"Photos look at it from {span:.0f}° around: the other side was never seen; there the model is open, or invented."
    hint = "Walk all the way around, with a photo every 15 to 20 degrees; options.postprocess.isolation `scene` for a facade or a place."
    return Reason("warn", "ONE_SIDED", message, hint)


def _flat(facts: Mapping[str, Any]) -> Reason | None:
    mesh = facts.get("mesh", {})
    relief = mesh.get("relief")
    if relief is None or relief >= FLAT or mesh.get("isolated"):
        return None
    message = f"The model is as flat as a picture: it departs from a plane by {100 * relief:.2f} % of its size."
    hint = "If it shows anything but a picture or a wall: crops of one photo, and photos from one place, have no depth; walk around it."
    return Reason("warn", "FLAT_MODEL", message, hint)


def _missing_parts(facts: Mapping[str, Any]) -> Reason | None:
    """What must be there or was seen there, and is not in the model: the worst of three signs."""
    found = facts.get("omissions", {})
    gap, lost, middle = (found.get(name) for name in ("gap_below", "lost_points", "middle_covered"))
    hint = "Take more photos, closer, all around and from low down, with 60 to 80 % overlap; `balanced` or `quality` finds thinner parts."
    if middle is not None and middle < WARN_MIDDLE:
        message = f"The model has {100 * middle:.0f} % of what the middle of the photos shows: what they look at is missing."
        return Reason("fail" if middle < FAIL_MIDDLE else "warn", "MISSING_PARTS", message, hint)
    if gap is not None and gap > WARN_GAP:
        message = f"The model hovers {100 * gap:.0f} % of its size above the ground: what it stands on, legs or a foot, is missing."
        return Reason("warn", "MISSING_PARTS", message, hint)
    if lost is not None and lost > WARN_LOST:
        message = f"{100 * lost:.1f} % of the points that photos confirm on the object are not on the model: parts are missing."
        return Reason("warn", "MISSING_PARTS", message, hint)
    return None


def _contradicted(facts: Mapping[str, Any]) -> Reason | None:
    through = facts.get("mesh", {}).get("looked_through")
    if through is None or through < WARN_THROUGH:
        return None
    message = f"{100 * through:.0f} % of the model stands where other photos look through: they show it elsewhere, or show something else."
    hint = "Move nothing between photos; send different objects as jobs of their own. A turntable needs a plain backdrop, or masks."
    return Reason("fail" if through >= FAIL_THROUGH else "warn", "CONTRADICTED_SURFACE", message, hint)


_CHECKS: tuple[Callable[[Mapping[str, Any]], Reason | None], ...] = (
    _registered,
    _few_images,
    _dropped,
    _reprojection,
    _tracks,
    _surface,
    _fidelity,
    _unseen,
    _missing_parts,
    _contradicted,
    _one_sided,
    _flat,
)
