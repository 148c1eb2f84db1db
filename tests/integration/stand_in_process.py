"""One process of a mesh of stand-ins, whose steps have small limits: `python -m tests.integration.stand_in_process sfm`."""

import sys

from pipelines.definition import Pipeline, StepDefinition, load_pipelines
from shared.contracts.routing import STAGES

HARD_LIMITS_S = {"segmentation": 4.0, "sfm": 4.0}
OTHER_LIMIT_S = 60.0  # eating takes a while on a machine that is busy
MEMORY_LIMIT_BYTES = 320 << 20


def main() -> None:
    """Runs until it is ended."""
    service = sys.argv.pop(1)
    if service in STAGES:
        from shared.runtime.entrypoint import main as run_stage

        run_stage(f"tests.integration.stand_in_stages:{service.capitalize()}")
    elif service == "webhooks":
        from services.webhooks.process import main as run_webhooks

        run_webhooks()
    else:
        import gateway.app
        from gateway.__main__ import main as run_gateway

        gateway.app.load_pipelines = limited_pipelines  # type: ignore[attr-defined]
        run_gateway()


def limited_pipelines() -> dict[str, Pipeline]:
    """The product's own, with limits that a test can wait for."""
    return {
        name: pipeline.model_copy(update={"steps": tuple(limited(step) for step in pipeline.steps)})
        for name, pipeline in load_pipelines().items()
    }


def limited(step: StepDefinition) -> StepDefinition:
    """The step with limits that it can meet."""
    hard_limit_s = HARD_LIMITS_S.get(step.stage, OTHER_LIMIT_S)
    return step.model_copy(update={"hard_limit_s": hard_limit_s, "memory_limit_bytes": MEMORY_LIMIT_BYTES})


if __name__ == "__main__":
    main()
