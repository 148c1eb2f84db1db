"""What a caller may ask of mvs. Imports pydantic alone: the gateway's schemas are generated from it."""

from itertools import combinations
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

DIVISORS = (8, 4, 2, 1)
PYRAMIDS = tuple(levels for count in range(1, len(DIVISORS) + 1) for levels in combinations(DIVISORS, count))


def _is_pyramid(levels: tuple[int, ...]) -> tuple[int, ...]:
    if levels not in PYRAMIDS:
        raise ValueError("levels go from coarse to fine, each once")
    return levels


Levels = Annotated[tuple[Literal[1, 2, 4, 8], ...], AfterValidator(_is_pyramid)]


class MvsParams(BaseModel):
    """Knobs of the dense reconstruction. The defaults are those of `balanced`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    levels: Levels = Field(
        default=(4, 2, 1),
        json_schema_extra={"enum": [list(levels) for levels in PYRAMIDS]},
        description="Pyramid: divisors of the working size, coarse to fine. Ending at 2 is four times cheaper and half as fine.",
    )
    max_image_size: int = Field(
        default=1600, ge=320, le=6000, description="Longest side of a photo at divisor 1, in pixels; larger photos are shrunk first."
    )
    views: int = Field(default=4, ge=1, le=8, description="Neighbouring photos that each photo is compared with.")
    check_views: int = Field(
        default=8, ge=1, le=16, description="Neighbouring photos whose depth maps are asked whether they agree, and averaged where they do."
    )
    best_views: int = Field(
        default=2,
        ge=1,
        le=4,
        description="A pixel's cost is the mean over this many of its best neighbours; low values tolerate occlusion.",
    )
    seed_iterations: int = Field(default=2, ge=1, le=10, description="Red-black iterations at the coarsest level, which starts from seeds.")
    level_iterations: int = Field(
        default=1,
        ge=0,
        le=10,
        description="Red-black iterations at the levels between, for pixels that still match badly after refinement.",
    )
    final_iterations: int = Field(default=1, ge=0, le=10, description="The same at the finest level.")
    geometric_weight: float = Field(
        default=0.1,
        ge=0.0,
        le=1.0,
        description="Weight of a pixel of disagreement (at most 3) between photos against 1 − NCC; 0 turns the geometric pass off.",
    )
    min_confidence: float = Field(default=0.4, ge=0.0, le=0.95, description="Smallest NCC (0 to 1) that a depth must reach to be kept.")
    min_consistent_views: int = Field(
        default=2, ge=1, le=8, description="Other photos that must see the same surface at a pixel for it to be kept."
    )
    max_reprojection_px: float = Field(
        default=2.0, ge=0.1, le=8.0, description="Largest forward-backward error between photos, in pixels of the finest level computed."
    )
    max_depth_error: float = Field(default=0.01, ge=0.0005, le=0.1, description="Largest relative difference in depth between photos.")
    min_angle_deg: float = Field(
        default=2.0, ge=0.0, le=30.0, description="Smallest triangulation angle of a neighbouring photo, in degrees."
    )
    min_speckle_px: int = Field(default=60, ge=0, le=10000, description="Smaller connected patches of a depth map are removed.")
    region: Literal["auto", "off"] = Field(
        default="auto",
        description="`auto` evaluates only what the cameras orbit, where they orbit something; `off` evaluates every pixel of every photo.",
    )
    max_points: int = Field(
        default=3_000_000, ge=1000, le=50_000_000, description="Cap on points in the cloud; beyond it the cloud is thinned evenly."
    )
    seed: int = Field(default=1, ge=0, le=2**31 - 1, description="Seed of the random hypotheses: the same seed gives the same cloud.")
