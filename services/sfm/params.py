"""What a caller may choose about structure from motion."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Length = Annotated[float, Field(ge=-1e6, le=1e6)]
_PIXELS = "Parameters as in COLMAP, in pixels of the upright photo; the centre of the first pixel is at (0.5, 0.5)."


class _GivenCamera(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(ge=16, le=100_000, description="Width of the photo that the parameters are for, upright, in pixels.")
    height: int = Field(ge=16, le=100_000, description="Height of the photo that the parameters are for, upright, in pixels.")


class SimplePinhole(_GivenCamera):
    """f, cx, cy."""

    model: Literal["SIMPLE_PINHOLE"]
    params: tuple[Length, Length, Length] = Field(description=_PIXELS)


class Pinhole(_GivenCamera):
    """fx, fy, cx, cy."""

    model: Literal["PINHOLE"]
    params: tuple[Length, Length, Length, Length] = Field(description=_PIXELS)


class SimpleRadial(_GivenCamera):
    """f, cx, cy, k."""

    model: Literal["SIMPLE_RADIAL"]
    params: tuple[Length, Length, Length, Length] = Field(description=_PIXELS)


class Radial(_GivenCamera):
    """f, cx, cy, k1, k2."""

    model: Literal["RADIAL"]
    params: tuple[Length, Length, Length, Length, Length] = Field(description=_PIXELS)


class OpenCv(_GivenCamera):
    """fx, fy, cx, cy, k1, k2, p1, p2."""

    model: Literal["OPENCV"]
    params: tuple[Length, Length, Length, Length, Length, Length, Length, Length] = Field(description=_PIXELS)


class OpenCvFisheye(_GivenCamera):
    """fx, fy, cx, cy, k1, k2, k3, k4."""

    model: Literal["OPENCV_FISHEYE"]
    params: tuple[Length, Length, Length, Length, Length, Length, Length, Length] = Field(description=_PIXELS)


class FullOpenCv(_GivenCamera):
    """fx, fy, cx, cy, k1, k2, p1, p2, k3, k4, k5, k6."""

    model: Literal["FULL_OPENCV"]
    params: tuple[Length, Length, Length, Length, Length, Length, Length, Length, Length, Length, Length, Length] = Field(
        description=_PIXELS
    )


GivenCamera = Annotated[
    SimplePinhole | Pinhole | SimpleRadial | Radial | OpenCv | OpenCvFisheye | FullOpenCv,
    Field(discriminator="model"),
]


class SfmParams(BaseModel):
    """How cameras are found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_image_size: int = Field(1200, ge=400, le=6400, description="Longest side in pixels at which features are looked for.")
    max_num_features: int = Field(
        3072, ge=256, le=32_768, description="Most features of one photo; the time of matching grows with its square."
    )
    matching: Literal["auto", "exhaustive", "sequential"] = Field(
        "auto",
        description="Which pairs are matched: all, or the most promising of neighbours in the order sent and look-alikes. "
        "auto: the most promising of all pairs up to `exhaustive_up_to` photos, else as sequential.",
    )
    exhaustive_up_to: int = Field(60, ge=3, le=1000, description="auto: up to this many photos every pair is looked at.")
    sequential_overlap: int = Field(10, ge=2, le=50, description="sequential: each photo is matched with this many that follow it.")
    shared_camera: Literal["auto", "always", "never"] = Field(
        "auto", description="Whether all photos share one camera's intrinsics. auto: those of equal size, make, model and focal length do."
    )
    camera: GivenCamera | None = Field(
        None, description="Known intrinsics: kept fixed, and scaled to the working images. Left out: found from the photos and their EXIF."
    )
    use_masks: bool = Field(
        True, description="Look for features inside masks only, where segmentation made them; without them if that fails."
    )

    retry_below: float = Field(
        0.9, ge=0.0, le=1.0, description="Try again with larger images when a smaller share of the photos than this registers."
    )
    retry_image_size: int = Field(2400, ge=400, le=6400, description="Longest side in pixels of that second try.")
    retry_num_features: int = Field(8192, ge=256, le=32_768, description="Most features of one photo in that second try.")
    min_registered: float = Field(0.5, ge=0.1, le=1.0, description="The job fails when a smaller share of the photos than this registers.")
    max_output_size: int = Field(
        1600, ge=400, le=6400, description="Longest side in pixels of the undistorted images that later steps work on."
    )
    random_seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of everything random in this step.")
