"""Pipelines as files, and the slips made from them."""

from pathlib import Path

import pytest
import yaml

from pipelines.definition import HERE, PRESETS, Pipeline, load_pipelines
from pipelines.options import StageOptions, load_options
from pipelines.slip import MAX_SLIP_BYTES, InvalidOptions, build_slip, check_presets
from shared.contracts.messages import MAX_MESSAGE_BYTES, StageMessage
from shared.contracts.routing import STAGES
from shared.contracts.slip import RoutingSlip

PIPELINES = load_pipelines()
STAGE_OPTIONS = load_options()


def faults_of(options: dict, pipeline: str = "photogrammetry", preset: str = "balanced") -> list[tuple]:
    """Paths and types of what is wrong."""
    with pytest.raises(InvalidOptions) as caught:
        build_slip(PIPELINES[pipeline], preset, options, STAGE_OPTIONS)
    return [(fault.path, fault.type) for fault in caught.value.faults]


def test_the_two_pipelines_are_as_promised() -> None:
    """photogrammetry has the six stages, each once; pointcloud delivers a cloud."""
    assert tuple(step.name for step in PIPELINES["photogrammetry"].steps) == STAGES
    assert PIPELINES["pointcloud"].outputs == ("pointcloud.ply", "cameras.json", "report.json")
    assert "postprocess" not in [step.name for step in PIPELINES["pointcloud"].steps]


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=lambda pipeline: pipeline.name)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_makes_a_small_valid_slip(pipeline: Pipeline, preset: str) -> None:
    """Its params fit the stages, and its message is far under the limit."""
    slip = build_slip(pipeline, preset, {}, STAGE_OPTIONS)
    message = StageMessage(job_id="0" * 36, slip=slip, position=len(slip.steps) - 1)
    assert len(message.to_bytes()) < MAX_MESSAGE_BYTES / 4
    assert RoutingSlip.model_validate_json(slip.to_bytes()) == slip


def test_a_preset_that_does_not_fit_stops_the_start() -> None:
    """A stage that lost an option is noticed before the first job."""
    check_presets(PIPELINES, STAGE_OPTIONS)
    poorer = STAGE_OPTIONS | {"mvs": StageOptions("mvs", "2", {"type": "object", "additionalProperties": False})}
    with pytest.raises(InvalidOptions, match=r"first mvs\."):
        check_presets(PIPELINES, poorer)


def test_options_go_over_the_preset() -> None:
    """What is asked for wins; the rest of the preset stays."""
    slip = build_slip(PIPELINES["photogrammetry"], "fastest", {"mvs": {"max_image_size": 800}}, STAGE_OPTIONS)
    preset = PIPELINES["photogrammetry"].presets["fastest"].params["mvs"]
    assert slip.steps[slip.position_of("mvs")].params == preset | {"max_image_size": 800}


@pytest.mark.parametrize(
    "options, path",
    [
        ({"nothing": {}}, ("nothing",)),
        ({"mvs": {"no_such_option": 1}}, ("mvs", "no_such_option")),
        ({"mvs": {"views": 99}}, ("mvs", "views")),
        ({"mvs": {"views": True}}, ("mvs", "views")),
        ({"mvs": {"levels": [3]}}, ("mvs", "levels", 0)),
        ({"sfm": {"camera": {"model": "PINHOLE", "params": [1, 2, 3], "width": 100, "height": 100}}}, ("sfm", "camera", "params")),
        ({"sfm": {"camera": {"model": "PINHOLE", "params": [1, 2, 3, "4"], "width": 100, "height": 100}}}, ("sfm", "camera", "params", 3)),
        ({"sfm": {"camera": 5}}, ("sfm", "camera")),
        ({"segmentation": {"model": {"url": "ftp://example.org/m.onnx"}}}, ("segmentation", "model", "url")),
    ],
)
def test_a_fault_is_placed_where_it_is(options: dict, path: tuple) -> None:
    """Also inside of values that may have one of several shapes."""
    assert path in [found for found, _ in faults_of(options)]


@pytest.mark.parametrize(("value", "shown"), [(None, "null"), (True, "true"), ([False, None, "ä"], '[false, null, "ä"]'), ("4", '"4"')])
def test_a_fault_shows_the_value_in_json(value: object, shown: str) -> None:
    """As it was sent, whatever our language calls it."""
    with pytest.raises(InvalidOptions) as caught:
        build_slip(PIPELINES["photogrammetry"], "balanced", {"mvs": {"views": value}}, STAGE_OPTIONS)
    assert caught.value.faults[0].message.startswith(f"{shown} is not of type 'integer'")


def test_faults_of_all_steps_come_together() -> None:
    """One look shows everything."""
    assert len(faults_of({"mvs": {"views": 0, "x": 1}, "sfm": {"y": 1}, "z": {}})) == 4


def test_given_intrinsics_pass() -> None:
    """The option that needs a nested value."""
    camera = {"model": "PINHOLE", "params": [2759.48, 2764.16, 1520.69, 1006.81], "width": 3072, "height": 2048}
    slip = build_slip(PIPELINES["photogrammetry"], "balanced", {"sfm": {"camera": camera}}, STAGE_OPTIONS)
    assert slip.steps[slip.position_of("sfm")].params["camera"] == camera


def test_options_that_swell_the_slip_are_refused() -> None:
    """Messages stay under 16 KiB, whatever a stage's schema would let through."""
    open_stage = {stage: StageOptions(stage, "1", {"type": "object"}) for stage in STAGES}
    with pytest.raises(InvalidOptions) as caught:
        build_slip(PIPELINES["photogrammetry"], "balanced", {"mvs": {"text": "ü" * (MAX_SLIP_BYTES // 2)}}, open_stage)
    assert [fault.path for fault in caught.value.faults] == [()]


@pytest.mark.parametrize(
    "change",
    [
        {"steps": []},
        {"name": "Other"},
        {"name": "other"},
        {"outputs": ["model.glb"]},
        {"outputs": ["report.json", "model.exe"]},
        {"presets": {}},
        {"surprise": 1},
        {"steps": [{"name": "a", "stage": "no_such", "hard_limit_s": 1, "memory_limit_bytes": 1, "weight": 1}]},
        {"steps": [{"name": "mvs", "stage": "mvs", "hard_limit_s": 1, "memory_limit_bytes": 1, "weight": 0}]},
    ],
    ids=str,
)
def test_a_wrong_file_stops_the_start(tmp_path: Path, change: dict) -> None:
    """A mistake in a pipeline is found when it is loaded, not by a job."""
    content = yaml.safe_load((HERE / "pointcloud.yml").read_text())
    (tmp_path / "pointcloud.yml").write_text(yaml.safe_dump(content | change))
    with pytest.raises(ValueError):
        load_pipelines(tmp_path)
