"""The local folder of one attempt: all that a stage sees of the world.

<root>/request.json             what was asked (JobRequest)
<root>/steps.json               manifests of the earlier steps, in order
<root>/inputs/<stage>/<file>    outputs of earlier stages that this one needs
<root>/inputs/images/<nnn>_<name>   uploads as received (nnn: index in the request)
<root>/parts/<round>/<part>/<file>  of a partitioned stage: outputs of parts of earlier rounds
<root>/outputs/<file>           what this attempt makes
<root>/scratch/                 removed with the folder
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from shared.contracts.manifest import Manifest
from shared.contracts.request import JobRequest

PARTS = "parts"

ProgressCallback = Callable[[float, str], None]


def _no_progress(fraction: float, message: str) -> None:
    pass


def _nobody(name: str) -> None:
    pass


@dataclass(frozen=True)
class Workspace:
    """Paths and progress of one attempt. `reduction` is 1 when the last try ran out of memory: compute at a lower resolution."""

    root: Path
    report_progress: ProgressCallback = field(default=_no_progress)
    reduction: int = 0
    tries: int = 1
    report_finished: Callable[[str], None] = field(default=_nobody)

    @property
    def outputs(self) -> Path:
        """Where results go; every file below it is uploaded."""
        return self._folder("outputs")

    @property
    def scratch(self) -> Path:
        """Where anything else goes."""
        return self._folder("scratch")

    def inputs(self, stage: str) -> Path:
        """Outputs of an earlier stage; the folder is missing when the pipeline lacks that stage."""
        return self.root / "inputs" / stage

    def part(self, round: str, name: str) -> Path:
        """Outputs of a part of an earlier round."""
        return self.root / PARTS / round / name

    def request(self) -> JobRequest:
        """What was asked."""
        return JobRequest.model_validate_json((self.root / "request.json").read_bytes())

    def earlier_steps(self) -> list[Manifest]:
        """Manifests of the steps before this one, in order; empty when run by hand."""
        path = self.root / "steps.json"
        return [Manifest.model_validate(item) for item in json.loads(path.read_bytes())] if path.exists() else []

    def progress(self, fraction: float, message: str) -> None:
        """Tells how far the stage is (0 to 1), with a sentence for a person."""
        self.report_progress(fraction, message)

    def finished(self, output: Path) -> None:
        """Tells that a file of `outputs` is written, for good: it is uploaded beside what is still to be computed. From any thread."""
        self.report_finished(output.relative_to(self.outputs).as_posix())

    def _folder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path
