"""A partitioned stage in this process: every split, part and join in a folder that holds what it declared, and no more."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from shared.contracts.manifest import StageReport
from shared.runtime.stage import Part, PartitionedStage
from shared.runtime.workspace import PARTS, Workspace

Needs = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Work:
    """One split, part or join. `cpu_seconds`: of all threads; `read_bytes`: of inputs and earlier parts; `outputs`: bytes by name."""

    round: str
    name: str
    cpu_seconds: float
    read_bytes: int
    outputs: dict[str, int]


@dataclass
class InParts:
    """Runs `stage` on the inputs of `whole` (a workspace's `inputs` folder); everything is made below `root`."""

    stage: PartitionedStage
    inputs: Path
    root: Path
    params: Any
    reduction: int = 0
    work: list[Work] = field(default_factory=list)
    parts: dict[str, tuple[Part, ...]] = field(default_factory=dict)

    def run(self) -> tuple[StageReport, Path] | None:
        """The join's report and outputs; None where the stage finds that not worth it."""
        for number, round in enumerate(self.stage.rounds):
            parts = self._measured(round, "split", self.stage.split_needs, partial(self._split, round))
            if number == 0 and len(parts) < 2:
                return None
            self.parts[round] = parts
            for part in parts:
                self._make(round, part)
        report = self._measured("", "join", self.stage.join_needs, lambda w: self.stage.join(w, self.params))
        return report, self.root / "join" / "outputs"

    def _split(self, round: str, workspace: Workspace) -> tuple[Part, ...]:
        return self.stage.split(workspace, self.params, round)

    def _make(self, round: str, part: Part) -> None:
        needs = dict(self.stage.needs if part.needs is None else part.needs)
        before = list(self.parts)[-2:-1]
        if before and part.parts is None:
            needs[f"{PARTS}/{before[0]}"] = ("*",)
        self._measured(round, part.name, needs, lambda w: self.stage.run_part(w, self.params, round, part.name))

    def _measured(self, round: str, name: str, needs: Needs, compute: Callable[[Workspace], Any]) -> Any:
        root = self.root / round / name
        workspace = Workspace(root, reduction=self.reduction)
        read = sum(self._linked(source, root / file) for source, file in self._files(needs))
        begun = time.process_time()
        made = compute(workspace)
        spent, outputs = time.process_time() - begun, workspace.outputs
        sizes = {path.relative_to(outputs).as_posix(): path.stat().st_size for path in sorted(outputs.rglob("*")) if path.is_file()}
        self.work.append(Work(round, name, spent, read, sizes))
        return made

    def _files(self, needs: Needs) -> Iterator[tuple[Path, Path]]:
        """Where each declared file lies, and where it goes below the workspace."""
        for source, patterns in needs.items():
            if not source.startswith(f"{PARTS}/"):
                yield from _matching(self.inputs / source, Path("inputs") / source, patterns)
                continue
            for part in self.parts.get(source.partition("/")[2], ()):
                round = source.partition("/")[2]
                yield from _matching(self.root / round / part.name / "outputs", Path(source) / part.name, patterns)

    def _linked(self, source: Path, target: Path) -> int:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve())
        return source.stat().st_size


def _matching(folder: Path, target: Path, patterns: tuple[str, ...]) -> Iterator[tuple[Path, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and any(fnmatchcase(name, pattern) for pattern in patterns):
            yield path, target / name
