"""Manifests: what a step made, and from what. The step's manifest in the store is its commit point."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from math import isfinite

from pydantic import Field, FiniteFloat, JsonValue, field_validator

from shared.contracts.base import SCHEMA_VERSION, Contract


class OutputFile(Contract):
    """One file that a step made. `name` is its path below the step's outputs, with forward slashes."""

    name: str
    bytes: int
    sha256: str
    content_type: str = "application/octet-stream"


class ChainLink(Contract):
    """The attempt of an earlier step that this one was computed from."""

    step: str
    position: int
    attempt: str


class PartLink(Contract):
    """The delivery of a part that a step was joined from."""

    round: str
    split: str
    part: str
    attempt: str


class Warning(Contract):
    """Something that a caller should know although the job goes on. `photos`: all that it is about; the message names some."""

    code: str
    message: str
    hint: str = ""
    photos: tuple[str, ...] = ()


EXPANDED = "expanded"  # the status of an archive or a video whose photos took its place


class ImageVerdict(Contract):
    """What became of one photo. `status` is accepted, registered, dropped or EXPANDED; `figures` are what a stage measured in it.

    `source`: what was sent with the photo in it; the verdicts of ingest alone say so, in the order of the photos.
    """

    name: str
    status: str
    reason: str | None = None
    figures: dict[str, float] = Field(default_factory=dict)
    source: str | None = None

    @field_validator("figures")
    @classmethod
    def _measured(cls, figures: dict[str, float]) -> dict[str, float]:
        """Without those that are no finite number: what could not be measured is not there, and JSON has no word for it."""
        return {name: value for name, value in figures.items() if isfinite(value)}


class StageReport(Contract):
    """What a step has to say: numbers for the report, verdicts on photos, warnings."""

    summary: dict[str, JsonValue] = Field(default_factory=dict)
    images: tuple[ImageVerdict, ...] = ()
    warnings: tuple[Warning, ...] = ()
    engines: dict[str, str] = Field(default_factory=dict)  # library -> version
    job_report: dict[str, JsonValue] | None = None  # the last step: the content of report.json


class StepError(Contract):
    """Why a step failed for good."""

    code: str
    message: str
    hint: str
    retryable: bool = False


class Manifest(Contract):
    """What one attempt of a step made; immutable once written."""

    schema_version: int = SCHEMA_VERSION
    job_id: str
    step: str
    position: int
    stage: str
    stage_version: str
    attempt: str  # the random prefix of this delivery's outputs
    chain: tuple[ChainLink, ...] = ()  # every earlier step, first to last
    digest: str = ""
    outputs: tuple[OutputFile, ...] = ()
    report: StageReport = StageReport()
    error: StepError | None = None
    seconds: FiniteFloat = 0.0  # of compute, on the worker's monotonic clock; of a step that was split the sum of its parts'
    peak_memory_bytes: int = 0
    tries: int = 1  # counted attempts up to this one; of a step that was split the most of any part
    reduction: int = 0
    finished_at: datetime | None = None
    parts: tuple[PartLink, ...] = ()  # of a step that was split: what it was joined from
    reused_from: str | None = None  # the job that the outputs were copied from; `seconds` is 0 then

    def link(self) -> ChainLink:
        """How a later step names this attempt."""
        return ChainLink(step=self.step, position=self.position, attempt=self.attempt)


def digest_of(stage: str, version: str, params: Mapping[str, JsonValue], inputs: Iterable[tuple[str, str]]) -> str:
    """sha256 of what a step's outputs depend on: stage, version, params, and names and sha256 of its inputs."""
    canonical = json.dumps([stage, version, dict(params), sorted(inputs)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
