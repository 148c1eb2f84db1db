"""The routing slip: every step of a job, carried by its messages, so that there is no orchestrator to lose."""

from typing import Any

from pydantic import Field, FiniteFloat, JsonValue

from shared.contracts.base import Contract


class Step(Contract):
    """One step of a job. `name` is unique in the slip; `stage` names the service that runs it."""

    name: str
    stage: str
    params: dict[str, JsonValue] = Field(default_factory=dict)
    hard_limit_s: FiniteFloat = 3600.0
    memory_limit_bytes: int = 6 << 30
    weight: FiniteFloat = 1.0  # its share of the job's progress


class RoutingSlip(Contract):
    """All steps of a job, in order."""

    pipeline: str
    pipeline_version: str
    preset: str
    steps: tuple[Step, ...]

    def position_of(self, step_name: str) -> int:
        """Index of the step with this name."""
        return next(i for i, step in enumerate(self.steps) if step.name == step_name)

    def is_last(self, position: int) -> bool:
        """Whether no step follows."""
        return position == len(self.steps) - 1


def progress_before(slip: RoutingSlip, position: int) -> float:
    """Percent of the job that lies before this step, by weight."""
    total = sum(step.weight for step in slip.steps)
    return 100.0 * sum(step.weight for step in slip.steps[:position]) / total


def job_progress(slip: RoutingSlip, position: int, fraction: float) -> float:
    """The job's percent when this step is `fraction` (0 to 1) done."""
    start, end = progress_before(slip, position), progress_before(slip, position + 1)
    return start + (end - start) * min(max(fraction, 0.0), 1.0)


def params_of(step: Step) -> dict[str, Any]:
    """The step's params as a plain dict."""
    return dict(step.params)
