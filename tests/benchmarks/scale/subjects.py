"""The stages whose sharing is measured: what they read, and a capture of it whose truth is computed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path

from pydantic import BaseModel

from shared.runtime.stage import PartitionedStage


@dataclass(frozen=True)
class Subject:
    """`before`: the step whose outputs it reads; `write`: makes those below a folder, of so many photos of 192 × 144 pixels times a factor;
    `least`: what in its partition.py says how many photos are too few to share."""

    name: str
    target: str
    before: str
    write: Callable[[Path, int, int], object]
    least: str

    @cached_property
    def stage(self) -> PartitionedStage:
        """An instance."""
        module, _, name = self.target.partition(":")
        stage: PartitionedStage = getattr(import_module(module), name)()
        return stage

    @property
    def params(self) -> BaseModel:
        """The defaults."""
        return self.stage.Params()

    def share_always(self) -> None:
        """In this process, to know what sharing costs where it does not pay."""
        setattr(import_module(f"services.{self.name}.partition"), self.least, 2)


def _write_sfm_outputs(folder: Path, photos: int, enlarged: int) -> None:
    from tests.unit.mvs.small_scene import write_sfm_outputs

    write_sfm_outputs(folder / "inputs" / "sfm", photos, enlarged=enlarged)


def _write_ingest_outputs(folder: Path, photos: int, enlarged: int) -> None:
    from tests.unit.sfm.corner_room import around, write_ingest

    write_ingest(folder, around(photos, (192 * enlarged, 144 * enlarged), 208.0 * enlarged))


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("mvs", "services.mvs.stage:MvsStage", "sfm", _write_sfm_outputs, "LEAST_VIEWS"),
        Subject("sfm", "services.sfm.stage:SfmStage", "ingest", _write_ingest_outputs, "LEAST_PHOTOS"),
    )
}
