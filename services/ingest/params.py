"""What a caller may choose about ingest."""

from pydantic import BaseModel, ConfigDict, Field


class IngestParams(BaseModel):
    """How photos become working images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_image_size: int = Field(
        3200,
        ge=640,
        le=12_000,
        description="Longest side of a working image in pixels; larger photos are reduced. Later steps reduce further.",
    )
    jpeg_quality: int = Field(95, ge=80, le=100, description="JPEG quality of working images that had to be encoded again.")
    keyframes: int = Field(
        48,
        ge=3,
        le=500,
        description="Photos taken out of each video: the sharpest of so many stretches in which the picture moves as much.",
    )
    drop_blurred: bool = Field(True, description="Drop photos that are hopelessly blurred, in themselves and beside the others of the job.")
    drop_duplicates: bool = Field(True, description="Drop a photo whose bytes or pixels equal those of an earlier one.")
