"""Knobs of the export stage; they become options of a request and a JSON Schema in the capabilities."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ExportParams(BaseModel):
    """How the deliverables are written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    texture_format: Literal["jpeg", "png"] = Field(
        default="jpeg", description="Encoding of the texture inside model.glb and model_obj.zip; png is lossless and several times larger."
    )
    jpeg_quality: int = Field(default=95, ge=50, le=100, description="JPEG quality of the texture.")
    unlit: bool = Field(
        default=True,
        description="Mark the material as unlit (KHR_materials_unlit): the texture already has the light of the photos.",
    )
    preview_size: int = Field(
        default=1280, ge=800, le=4096, description="Width and height of preview.png (a grid of two by two views), in pixels."
    )
