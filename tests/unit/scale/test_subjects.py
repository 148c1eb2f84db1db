"""What is measured of a stage is what the stage has."""

from importlib import import_module

import pytest

from tests.benchmarks.scale.subjects import SUBJECTS, Subject


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_a_subject_is_a_stage_that_shares_its_work(subject: Subject) -> None:
    """It reads the step whose outputs are written, and says in its partition.py how few photos are too few."""
    stage = subject.stage
    assert stage.name == subject.name and len(stage.rounds) > 1
    assert set(stage.needs) - {"segmentation"} == {subject.before}  # masks may be missing
    assert stage.least_inputs[1] == getattr(import_module(f"services.{subject.name}.partition"), subject.least)
