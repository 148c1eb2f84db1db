"""What a caller may choose about segmentation."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, model_validator

Triple = Annotated[tuple[float, float, float], Field(min_length=3, max_length=3)]
Deviation = Annotated[float, Field(gt=0)]


class OnnxModel(BaseModel):
    """How a salient-object model is found and spoken to. The defaults fit U²-Net, u2netp and silueta."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"oneOf": [{"required": ["name"]}, {"required": ["url", "sha256"]}]}
    )

    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="File name of a model in the operator's model folder (MESHWORK_MODEL_DIR). Give this or `url`.",
    )
    url: HttpUrl | None = Field(None, description="Where the model is fetched from; needs `sha256`.")
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="sha256 of the model file, in lower-case hex; checked before use."
    )
    input_width: int = Field(320, ge=32, le=4096, description="Width in pixels that the photo is scaled to.")
    input_height: int = Field(320, ge=32, le=4096, description="Height in pixels that the photo is scaled to.")
    layout: Literal["nchw", "nhwc"] = Field("nchw", description="Order of the input's axes.")
    colour: Literal["rgb", "bgr"] = Field("rgb", description="Order of the input's channels.")
    mean: Triple = Field((0.485, 0.456, 0.406), description="Subtracted from each channel after scaling to 0…1.")
    std: tuple[Deviation, Deviation, Deviation] = Field((0.229, 0.224, 0.225), description="Each channel is divided by this.")
    output_index: int = Field(0, ge=-16, le=16, description="Which output is the mask; -1 is the last one.")
    activation: Literal["none", "sigmoid", "softmax", "minmax"] = Field(
        "minmax",
        description="What makes the output 0…1: nothing, the logistic function, softmax over two channels (object second), or its range.",
    )
    threshold: float = Field(0.5, gt=0.0, lt=1.0, description="From this value on a pixel is object.")

    @model_validator(mode="after")
    def _one_source(self) -> "OnnxModel":
        if (self.name is None) == (self.url is None):
            raise ValueError("give exactly one of name and url")
        if self.url is not None and self.sha256 is None:
            raise ValueError("a model by url needs its sha256")
        return self


class SegmentationParams(BaseModel):
    """Whether and how the object is separated from its background."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "if": {"properties": {"mode": {"const": "onnx"}}, "required": ["mode"]},
            "then": {"required": ["model"], "properties": {"model": {"type": "object"}}},
        },
    )

    mode: Literal["none", "turntable", "auto", "onnx"] = Field(
        "turntable",
        description="none: no masks. turntable: masks of what turns before a camera on a tripod, whatever is behind it; none for "
        "photos taken by walking around. auto: the same, and for objects in front of a plain backdrop too. onnx: a model of your choice.",
    )
    working_size: int = Field(
        640, ge=160, le=2048, description="Longest side in pixels at which masks are computed; they are scaled up afterwards."
    )
    grabcut_iterations: int = Field(4, ge=1, le=20, description="auto: rounds of GrabCut.")
    min_coverage: float = Field(0.02, ge=0.0, le=0.5, description="A mask that covers less of its photo than this is not used.")
    max_coverage: float = Field(0.95, ge=0.5, le=1.0, description="A mask that covers more of its photo than this is not used.")
    min_confidence: float = Field(0.35, ge=0.0, le=1.0, description="A mask with less confidence than this (0 to 1) is not used.")
    model: OnnxModel | None = Field(None, description="onnx: the model.")

    @model_validator(mode="after")
    def _model_given(self) -> "SegmentationParams":
        if self.mode == "onnx" and self.model is None:
            raise ValueError("mode onnx needs a model")
        return self
