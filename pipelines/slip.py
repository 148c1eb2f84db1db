"""Makes a job's routing slip from a pipeline, a preset and what the caller asked for beyond it."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from pydantic import JsonValue

from pipelines.definition import Pipeline, StepDefinition
from pipelines.options import OptionFault, StageOptions
from shared.contracts.slip import RoutingSlip

# A message is a slip, an id and counters, and must stay under 16 KiB.
MAX_SLIP_BYTES = 12 << 10
MAX_FAULTS = 50  # nobody reads more


class InvalidOptions(Exception):
    """The options of a request do not fit the pipeline's steps. `faults`: the first of them."""

    def __init__(self, faults: list[OptionFault]) -> None:
        self.faults = faults
        first = faults[0]
        super().__init__(f"the options have faults, first {'.'.join(map(str, first.path))}: {first.message}")


def build_slip(
    pipeline: Pipeline, preset: str, options: Mapping[str, Mapping[str, JsonValue]], stages: Mapping[str, StageOptions]
) -> RoutingSlip:
    """The slip whose params are the preset's, overridden by `options` (by step name). Raises InvalidOptions, KeyError for the preset.

    build_slip(pipelines["photogrammetry"], "balanced", {"mvs": {"views": 6}}, load_options())
    """
    given = pipeline.presets[preset].params
    params = {step.name: {**given.get(step.name, {}), **options.get(step.name, {})} for step in pipeline.steps}
    faults = list(islice(_faults_in(pipeline, options, params, stages), MAX_FAULTS))
    steps = tuple(step.step(params[step.name]) for step in pipeline.steps)
    slip = RoutingSlip(pipeline=pipeline.name, pipeline_version=pipeline.version, preset=preset, steps=steps)
    if not faults and len(slip.to_bytes()) > MAX_SLIP_BYTES:
        faults.append(OptionFault((), f"the options are too large: steps and options may have {MAX_SLIP_BYTES} bytes", "too_long"))
    if faults:
        raise InvalidOptions(faults)
    return slip


def check_presets(pipelines: Mapping[str, Pipeline], stages: Mapping[str, StageOptions]) -> None:
    """Raises InvalidOptions when a preset asks a stage for what it does not have: such an installation must not start."""
    faults = [
        fault
        for pipeline in pipelines.values()
        for preset in pipeline.presets.values()
        for step in pipeline.steps
        for fault in _faults_of(step, preset.params.get(step.name, {}), stages)
    ]
    if faults:
        raise InvalidOptions(faults)


def _faults_in(
    pipeline: Pipeline, options: Mapping[str, Any], params: Mapping[str, Mapping[str, JsonValue]], stages: Mapping[str, StageOptions]
) -> Iterator[OptionFault]:
    """What is wrong with the steps that options name; the presets themselves are checked once, at the start."""
    yield from _unknown_steps(pipeline, options)
    for step in pipeline.steps:
        if step.name in options:
            yield from _faults_of(step, params[step.name], stages)


def _faults_of(step: StepDefinition, params: Mapping[str, JsonValue], stages: Mapping[str, StageOptions]) -> Iterator[OptionFault]:
    return (OptionFault((step.name, *fault.path), fault.message, fault.type) for fault in stages[step.stage].faults(params))


def _unknown_steps(pipeline: Pipeline, options: Mapping[str, Any]) -> Iterator[OptionFault]:
    names = [step.name for step in pipeline.steps]
    sentence = f"pipeline {pipeline.name} has no such step; it has {', '.join(names)}"
    return (OptionFault((name,), sentence, "extra_forbidden") for name in options if name not in names)
