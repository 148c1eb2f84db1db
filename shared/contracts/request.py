"""What was asked: `request.json`, written by the relay from the row before the first publish."""

from datetime import datetime

from pydantic import Field, JsonValue

from shared.contracts.base import SCHEMA_VERSION, Contract


class ImageSource(Contract):
    """One photo, in the order sent. Exactly one of `url` (fetched by ingest) and `key` (uploaded, in the store) is set."""

    name: str  # unique in the job and harmless as a file name
    url: str | None = None
    key: str | None = None
    sha256: str | None = None  # of an upload
    bytes: int | None = None


class JobRequest(Contract):
    """The request as the stages see it."""

    schema_version: int = SCHEMA_VERSION
    job_id: str
    created_at: datetime
    pipeline: str
    preset: str
    images: tuple[ImageSource, ...]
    outputs: tuple[str, ...]  # artifact names wanted; report.json always
    options: dict[str, JsonValue] = Field(default_factory=dict)
    parent: str | None = None  # an earlier job of the same photos and tenant: steps whose digest is unchanged are copied from it
