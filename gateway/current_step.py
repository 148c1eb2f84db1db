"""Where a job stands, by its rows, and the message that takes it on from there."""

from collections.abc import Sequence
from typing import Any

from gateway.database.models import StepRow


def current_step(steps: Sequence[StepRow]) -> StepRow:
    """The furthest step that is being worked on, or the one after the furthest that completed.

    Rows may lag behind: a step that is published although it has its manifest is only forwarded.
    """
    furthest = next((step for step in reversed(steps) if step.status != "pending"), steps[0])
    return furthest if furthest.status != "completed" or furthest is steps[-1] else steps[furthest.position + 1]


def again(step: StepRow) -> dict[str, Any]:
    """The payload of an outbox row that publishes this step again, its counters unchanged."""
    return {"position": step.position, "attempt": max(1, step.attempts), "resumed": step.resumed}
