"""What a pipeline is, read from its YAML file and checked whole: a mistake in a file stops the start, never a job."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from shared.contracts.artifacts import ARTIFACTS, REPORT
from shared.contracts.routing import STAGES
from shared.contracts.slip import Step

HERE = Path(__file__).parent
PRESETS = ("fastest", "balanced", "quality")
DEFAULT_PRESET = "balanced"
DEFAULT_PIPELINE = "photogrammetry"

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class _Definition(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StepDefinition(_Definition):
    """One step: which stage runs it, how long and with how much memory, and its share of the job's progress."""

    name: Name
    stage: Name
    hard_limit_s: float = Field(gt=0)
    memory_limit_bytes: int = Field(gt=0)
    weight: float = Field(gt=0)

    def step(self, params: dict[str, JsonValue]) -> Step:
        """The step as it stands in a routing slip."""
        return Step(**self.model_dump(), params=params)


class Preset(_Definition):
    """Params per step, where they differ from the stage's defaults."""

    description: str = Field(min_length=1)
    params: dict[Name, dict[str, JsonValue]]


class Pipeline(_Definition):
    """Steps in order, what they deliver, and presets."""

    name: Name
    version: str
    description: str = Field(min_length=1)
    steps: tuple[StepDefinition, ...] = Field(min_length=1)
    outputs: tuple[str, ...]
    presets: dict[Name, Preset]

    @model_validator(mode="after")
    def _is_consistent(self) -> "Pipeline":
        names = [step.name for step in self.steps]
        _require(len(set(names)) == len(names), "two steps have one name")
        _require(all(step.stage in STAGES for step in self.steps), "a step names an unknown stage")
        _require(set(self.outputs) <= set(ARTIFACTS) and REPORT in self.outputs, f"outputs are known artifacts, {REPORT} among them")
        _require(set(self.presets) >= set(PRESETS), f"every pipeline has the presets {', '.join(PRESETS)}")
        for preset in self.presets.values():
            _require(set(preset.params) <= set(names), "a preset names a step that the pipeline does not have")
        return self


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def load_pipelines(folder: Path = HERE) -> dict[str, Pipeline]:
    """Every pipeline in a folder, by name. Raises ValueError for a file that is wrong."""
    pipelines = {}
    for path in sorted(folder.glob("*.yml")):
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        pipeline = Pipeline.model_validate(content)
        _require(pipeline.name == path.stem, f"{path.name} names its pipeline {pipeline.name}")
        pipelines[pipeline.name] = pipeline
    return pipelines
