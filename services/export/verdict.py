"""Pass, warn or fail: a completed model is judged by numbers, each with a reason and a hint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["pass", "warn", "fail"]

RECOMMENDED_IMAGES = 12
FAIL_REGISTERED = 0.5  # any photo less than all is a warning: what it showed may be missing
WARN_REPROJECTION_PX = 1.5
WARN_TRACK_LENGTH = 2.5
WARN_PSNR_DB, FAIL_PSNR_DB = 18.0, 10.0
WARN_SEEN = 0.5  # an object's underside is never seen; half of the surface is another matter


@dataclass(frozen=True)
class Reason:
    """Why a model is not simply good."""

    level: Literal["warn", "fail"]
    code: str
    message: str
    hint: str

    def as_json(self) -> dict[str, str]:
        """As it stands in the report."""
        return {"level": self.level, "code": self.code, "message": self.message, "hint": self.hint}


def judge(facts: Mapping[str, Any]) -> list[Reason]:
    """Every reason to doubt the model, from the facts of the report."""
    return [reason for check in _CHECKS if (reason := check(facts)) is not None]


def verdict_of(reasons: list[Reason]) -> Verdict:
    """The worst of the reasons' levels."""
    levels = {reason.level for reason in reasons}
    return "fail" if "fail" in levels else "warn" if "warn" in levels else "pass"


def _registered(facts: Mapping[str, Any]) -> Reason | None:
    images = facts["images"]
    ratio = images["registered"] / max(images["used"], 1)
    if ratio >= 1:
        return None
    message = f"{images['registered']} of {images['used']} photos could be placed."
    hint = "Take more photos between those listed and their neighbours: 60 to 80 % overlap, sharp, with texture in view."
    return Reason("fail" if ratio < FAIL_REGISTERED else "warn", "FEW_REGISTERED", message, hint)


def _few_images(facts: Mapping[str, Any]) -> Reason | None:
    used = facts["images"]["used"]
    if used >= RECOMMENDED_IMAGES:
        return None
    return Reason("warn", "FEW_IMAGES", f"Only {used} photos were used.", f"Send {RECOMMENDED_IMAGES} or more, all around the object.")


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


_CHECKS: tuple[Callable[[Mapping[str, Any]], Reason | None], ...] = (_registered, _few_images, _reprojection, _tracks, _fidelity, _unseen)
