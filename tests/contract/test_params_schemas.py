"""The gateway's schemas of options are those of the stages."""

import importlib
import json

import pytest
from pydantic import BaseModel, ValidationError

from deploy.generate_schemas import FOLDER, schema_text
from pipelines.definition import PRESETS, load_pipelines
from pipelines.options import load_options
from pipelines.slip import build_slip
from shared.broker.topology import STAGE_CONSUMER_TIMEOUT
from shared.contracts.routing import STAGES
from shared.contracts.slip import params_of


def params_class(stage: str) -> type[BaseModel]:
    module = importlib.import_module(f"services.{stage}.params")
    return getattr(module, f"{stage.capitalize()}Params")


@pytest.mark.parametrize("stage", STAGES)
def test_the_schema_is_that_of_the_stage(stage: str) -> None:
    """Made again, it is the same: `python -m deploy.generate_schemas` writes it."""
    assert (FOLDER / f"{stage}.json").read_text() == schema_text(stage)


def test_there_is_no_schema_of_a_stage_that_is_gone() -> None:
    """The folder holds the six stages and nothing else."""
    assert {path.stem for path in FOLDER.glob("*.json")} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_is_described_bounded_and_optional(stage: str) -> None:
    """A caller learns everything from /capabilities, and nobody can ask for a billion of something."""
    schema = json.loads(schema_text(stage))["params"]
    assert schema["additionalProperties"] is False and "required" not in schema
    for name, option in schema["properties"].items():
        assert option["description"], name
        assert "default" in option, name
        if option.get("type") in {"integer", "number"}:
            assert "minimum" in option or "exclusiveMinimum" in option, name
            assert "maximum" in option or "exclusiveMaximum" in option, name


@pytest.mark.parametrize("pipeline", load_pipelines().values(), ids=lambda pipeline: pipeline.name)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_taken_by_the_stages_themselves(pipeline, preset: str) -> None:
    """What the schemas let through, the workers take; no step may run longer than the broker waits for it."""
    for step in build_slip(pipeline, preset, {}, load_options()).steps:
        params_class(step.stage).model_validate(params_of(step))
        assert step.hard_limit_s < STAGE_CONSUMER_TIMEOUT.total_seconds()


ONNX = {"url": "https://example.org/m.onnx", "sha256": "0" * 64}


@pytest.mark.parametrize(
    "model, fits",
    [
        (ONNX, True),
        ({"name": "u2net.onnx"}, True),
        ({"name": "u2net.onnx", "url": None}, True),
        (None, False),
        ({}, False),
        ({"url": ONNX["url"]}, False),
        (ONNX | {"name": "u2net.onnx"}, False),
        (ONNX | {"url": "not a link"}, False),
    ],
)
def test_rules_between_options_hold_at_the_door(model: dict | None, fits: bool) -> None:
    """What a stage would refuse, the schema refuses: a mistake is told at once, and not by a failed job."""
    params = {"mode": "onnx", "model": model}
    assert fits == (not list(load_options()["segmentation"].faults(params)))
    try:
        params_class("segmentation").model_validate(params)
    except ValidationError:
        assert not fits
    else:
        assert fits


def test_a_mode_without_its_model_is_refused() -> None:
    """The rule holds also where the option is left out."""
    assert list(load_options()["segmentation"].faults({"mode": "onnx"}))
    assert not list(load_options()["segmentation"].faults({"mode": "auto"}))
