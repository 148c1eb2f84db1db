"""What callers send and read: the models behind the OpenAPI document. Nothing inside the mesh uses them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError, to_json

from pipelines.definition import DEFAULT_PIPELINE, DEFAULT_PRESET
from pipelines.slip import MAX_SLIP_BYTES

JobStatus = Literal["queued", "processing", "completed", "failed", "cancelled"]
StepStatus = Literal["pending", "processing", "completed", "failed", "cancelled"]
CallbackEvent = Literal["job.completed", "job.failed", "job.cancelled", "job.started", "stage.completed"]
Priority = Literal["normal", "high"]
ENDINGS: tuple[CallbackEvent, ...] = ("job.completed", "job.failed", "job.cancelled")


def _small(options: object) -> object:
    """What fits into no slip is not looked at step by step and option by option."""
    if isinstance(options, dict) and len(to_json(options)) > MAX_SLIP_BYTES:
        raise PydanticCustomError(
            "too_long", "the options are too large: steps and options may have {most} bytes", {"most": MAX_SLIP_BYTES}
        )
    return options


_Url = Annotated[str, Field(min_length=1, max_length=8192)]
_Options = Annotated[dict[str, dict[str, JsonValue]], BeforeValidator(_small)]


class UploadRequest(BaseModel):
    """What is asked for, beside the photos: the `request` part of an upload."""

    model_config = ConfigDict(extra="forbid", strict=True)

    callback_url: _Url | None = Field(None, description="Where the signed webhooks go. Left out: none are sent.")
    callback_events: Annotated[list[CallbackEvent], Field(max_length=16)] | None = Field(
        None, description="Which webhooks are sent; only these. Left out: the three endings."
    )
    metadata: dict[str, JsonValue] = Field(
        default_factory=dict, description="Anything of yours: echoed in the job and in every webhook. At most 64 KiB and 32 levels."
    )
    preset: str = Field(DEFAULT_PRESET, max_length=64, description="How much effort: `fastest`, `balanced` or `quality`.")
    pipeline: str = Field(DEFAULT_PIPELINE, max_length=64, description="What is made: `photogrammetry` or `pointcloud`.")
    options: _Options = Field(
        default_factory=dict,
        description='Options of single steps, over the preset\'s: `{"mvs": {"views": 6}}`; at most 12 KiB with all steps. '
        "/api/v1/capabilities lists them all.",
    )
    outputs: Annotated[list[str], Field(max_length=64)] | None = Field(
        None, description="Which artifacts are made; `report.json` always is. Left out: all that the pipeline has."
    )
    priority: Priority = Field("normal", description="`high` is begun before every `normal` job that waits.")


class RetryRequest(BaseModel):
    """What a retry asks for that the job did not; what is left out stays as it was."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"options": {"postprocess": {"triangles": 50000}}}}
    )

    callback_url: _Url | None = Field(None, description="Where the signed webhooks go; null: none are sent.")
    callback_events: Annotated[list[CallbackEvent], Field(max_length=16)] | None = Field(None, description="Which webhooks are sent.")
    metadata: dict[str, JsonValue] | None = Field(None, description="Takes the place of the job's.")
    preset: str | None = Field(None, max_length=64, description="How much effort.")
    pipeline: str | None = Field(None, max_length=64, description="What is made.")
    options: _Options | None = Field(
        None, description="Options of single steps, each in place of the one that the job was asked with; the job's others stay."
    )
    outputs: Annotated[list[str], Field(max_length=64)] | None = Field(None, description="Which artifacts are made.")
    priority: Priority | None = Field(None, description="`normal` or `high`.")


class ReconstructRequest(UploadRequest):
    """Photos by their links, and what is asked for."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "image_urls": [
                    "https://example.org/photos/01.jpg",
                    "https://example.org/photos/02.jpg",
                    "https://example.org/photos/03.jpg",
                ],
                "callback_url": "https://example.org/hooks/meshwork",
                "metadata": {"user_id": 123},
                "preset": "balanced",
            }
        }
    )

    image_urls: list[str] = Field(
        description="Links of the photos, http or https, 3 to 1,000 of them, in the order taken if there is one. A link to a ZIP archive "
        "stands for the photos in it, one to a video (MP4, MOV, WebM) for its sharpest frames; fewer than three links are taken when the "
        "path of one ends in `.zip`, `.mp4`, `.m4v`, `.mov`, `.webm` or `.mkv`. At most "
        "32 of their hosts may have names that are not ASCII."
    )


class Accepted(BaseModel):
    """The job is recorded and will be done."""

    job_id: str = Field(description="Id of the job.")
    status: JobStatus = Field(description="`queued`; for a repeated Idempotency-Key, whatever the job is now.")
    message: str = Field(description="What happens next, for a person.")


class StepState(BaseModel):
    """How far one step is."""

    name: str = Field(description="Name of the step.")
    status: StepStatus = Field(description="`pending` until a worker takes it.")
    progress: float = Field(description="0 to 100.")
    seconds: float = Field(description="Seconds of compute.")
    attempts: int = Field(description="How often it was tried; 0 while pending.")


class ImageState(BaseModel):
    """What became of one photo, or of one archive or video that was sent."""

    name: str = Field(description="Its name in the job, and its key in cameras.json.")
    url: str | None = Field(description="As sent; null for uploads.")
    status: Literal["pending", "accepted", "registered", "dropped", "expanded"] = Field(
        description="`registered`: it has a place in the model; `expanded`: an archive or a video, the photos out of which follow it."
    )
    reason: str | None = Field(description="Why it was dropped.")
    source: str | None = Field(None, description="Only with photos out of an archive or a video: its name.")


class Notice(BaseModel):
    """Something worth knowing although the job goes on."""

    code: str = Field(description="The kind of warning, for a program.")
    message: str = Field(description="What was seen.")
    hint: str = Field("", description="What to do about it.")


class JobError(BaseModel):
    """Why the job failed."""

    code: str = Field(description="The reason, for a program; stable.")
    message: str = Field(description="The reason, for a person.")
    stage: str | None = Field(None, description="The step that failed.")
    hint: str = Field("", description="What to do about it.")
    retryable: bool = Field(False, description="Whether the same request may succeed later.")


class Artifact(BaseModel):
    """One file that was made."""

    name: str = Field(description="File name, e.g. `model.glb`.")
    format: str = Field(description="File format, e.g. `glb`.")
    bytes: int = Field(description="Size of the file.")
    sha256: str = Field(description="sha256 of the file, in hex.")
    url: str = Field(description="A signed link that needs no key, good until `expires_at`.")
    expires_at: datetime = Field(description="When the link and the file end.")


class JobDocument(BaseModel):
    """A job."""

    job_id: str = Field(description="Id of the job.")
    status: JobStatus = Field(description="`queued`, `processing`, then `completed`, `failed` or `cancelled`.")
    stage: str | None = Field(description="The running or last step; null while queued.")
    progress: float = Field(description="0 to 100; never falls.")
    created_at: datetime = Field(description="When it was accepted, UTC.")
    started_at: datetime | None = Field(description="When the first worker took it, UTC.")
    finished_at: datetime | None = Field(description="When it ended, UTC.")
    preset: str = Field(description="As asked.")
    pipeline: str = Field(description="As asked.")
    priority: Priority = Field(description="As asked.")
    parent: str | None = Field(description="The job that this one is a retry of.")
    metadata: dict[str, Any] = Field(description="As sent.")
    queue_position: int | None = Field(description="While queued: its place, counted from 1; else null.")
    stages: list[StepState] = Field(description="Every step, in order.")
    images: list[ImageState] = Field(
        description="Every photo, in the order sent; photos out of archives and videos once `ingest` has opened them."
    )
    warnings: list[Notice] = Field(description="Worth knowing.")
    error: JobError | None = Field(description="Why it failed; else null.")
    artifacts: list[Artifact] = Field(description="What was made; empty before the end.")
    result_url: str | None = Field(description="The link of model.glb, where there is one.")
    report: dict[str, Any] | None = Field(description="The content of report.json, once there is one.")


class JobPage(BaseModel):
    """Some jobs, newest first."""

    jobs: list[JobDocument] = Field(description="Jobs, newest first.")
    next_cursor: str | None = Field(description="Send it as `cursor` for the next page; null on the last one.")


class ArtifactList(BaseModel):
    """Everything that a job made."""

    artifacts: list[Artifact] = Field(description="The files.")


class Attempt(BaseModel):
    """One call of a webhook that has ended."""

    at: datetime = Field(description="When it ended, UTC.")
    status_code: int | None = Field(description="What the receiver answered; null where it did not.")
    error: str | None = Field(description="Why it was no success.")


class WebhookDelivery(BaseModel):
    """One webhook of a job."""

    id: str = Field(description="The webhook-id that every attempt carries.")
    type: str = Field(description="What it tells, e.g. `job.completed`.")
    status: Literal["pending", "delivered", "parked"] = Field(description="`parked`: given up; it can be replayed.")
    attempts: list[Attempt] = Field(description="Calls that have ended, first to last.")


class DeliveryList(BaseModel):
    """Every webhook of a job."""

    deliveries: list[WebhookDelivery] = Field(description="In the order they were decided.")


class Replay(BaseModel):
    """A webhook will be sent once more."""

    id: str = Field(description="The webhook-id.")
    message: str = Field(description="What happens next, for a person.")


class StageCapability(BaseModel):
    """One stage that jobs go through."""

    version: str = Field(description="Version of the stage's code.")
    params: dict[str, Any] = Field(description="JSON Schema of its options.")


class PresetCapability(BaseModel):
    """One preset."""

    description: str = Field(description="What it is for.")
    pipelines: list[str] = Field(description="The pipelines that have it.")


class PipelineCapability(BaseModel):
    """One pipeline."""

    version: str = Field(description="Version of the pipeline.")
    description: str = Field(description="What it makes.")
    steps: list[str] = Field(description="Its steps, in order.")
    outputs: list[str] = Field(description="The artifacts that it can make.")
    presets: dict[str, dict[str, dict[str, Any]]] = Field(description="Per preset and step: what differs from the stage's defaults.")


class Capabilities(BaseModel):
    """What can be asked for."""

    presets: dict[str, PresetCapability] = Field(description="Presets, by name.")
    pipelines: dict[str, PipelineCapability] = Field(description="Pipelines, by name.")
    outputs: list[str] = Field(description="Every artifact that a pipeline can make.")
    stages: dict[str, StageCapability] = Field(description="Stages and their options, by name.")
    callback_events: list[str] = Field(description="Webhooks that can be asked for.")
    limits: dict[str, int | float] = Field(description="Limits of a request.")
    versions: dict[str, str] = Field(description="Versions of the API and of the service.")


class DependencyState(BaseModel):
    """Whether one server that this process needs answers."""

    state: Literal["ok", "unavailable"] = Field(description="Whether it answered just now.")


class Readiness(BaseModel):
    """Whether this process can take requests."""

    status: Literal["ready", "degraded", "unavailable"] = Field(
        description="`degraded`: requests are taken, and wait for what is away; `unavailable`: they are not."
    )
    dependencies: dict[str, DependencyState] = Field(description="Every server that this process needs, by name.")


class Liveness(BaseModel):
    """This process runs."""

    status: Literal["alive"] = Field(description="That it answers is the news.")
