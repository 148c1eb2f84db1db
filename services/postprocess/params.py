"""Knobs of the postprocess stage; they become options of a request and a JSON Schema in the capabilities."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PostprocessParams(BaseModel):
    """How the dense cloud becomes a clean, textured mesh. Defaults are those of the preset `balanced`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    isolation: Literal["auto", "object", "scene"] = Field(
        default="auto",
        description="Whether ground and surroundings are removed: `object` always, `scene` never, `auto` when the cameras orbit something.",
    )
    poisson_depth: int = Field(
        default=9,
        ge=6,
        le=11,
        description="Octree depth of the screened Poisson reconstruction; each level doubles detail and takes about four times as long.",
    )
    point_limit: int = Field(
        default=1_000_000,
        ge=10_000,
        le=20_000_000,
        description="Points of the dense cloud that the surface is fitted to at most; the rest is thinned evenly.",
    )
    density_trim: float = Field(
        default=0.02,
        ge=0.0,
        le=0.3,
        description="Share of the surface with the least support in the cloud that is cut away before holes are filled.",
    )
    close_underside: bool = Field(
        default=True,
        description="Close the side that an isolated object stands on, and other holes that no photo saw, so that the mesh is watertight.",
    )
    refinement_rounds: int = Field(
        default=4,
        ge=0,
        le=10,
        description="Rounds in which the surface moves to where the photos agree best, by fractions of a pixel; 0 leaves it as fitted.",
    )
    triangles: int = Field(default=200_000, ge=5_000, le=5_000_000, description="Triangle budget of the delivered mesh.")
    texture_size: int = Field(
        default=4096,
        ge=256,
        le=8192,
        description="Largest width and height of the texture, in pixels; it is smaller where the photos resolve no more.",
    )
    texture_views: int = Field(default=3, ge=1, le=8, description="Photos that are blended at each point of the texture, best ones first.")
    hold_out_every: int = Field(
        default=8,
        ge=0,
        le=100,
        description="Every n-th photo is kept out of a trial texture and compared with its rendering (PSNR in the report); 0 skips this.",
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of every random choice; the same request gives the same model.")
