"""What a shared job of a stage does, measured part by part: who reads what, how long it computes, how much it writes."""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from shared.runtime.workspace import Workspace
from tests.benchmarks.scale.schedule import Durations
from tests.benchmarks.scale.subjects import Subject
from tests.support.in_parts import InParts, Work


@dataclass(frozen=True)
class Recorded:
    """`whole_s`: CPU seconds of `run`; `parts`: of each round, as `split` gave them; `work`: of every split, part and the join."""

    whole_s: float
    parts: dict[str, list[dict[str, object]]]
    work: list[Work]

    @property
    def shared_s(self) -> float:
        """CPU seconds of all splits, parts and the join."""
        return sum(work.cpu_seconds for work in self.work)

    @property
    def splitting_s(self) -> float:
        """CPU seconds of the splits alone."""
        return sum(work.cpu_seconds for work in self.work if work.name == "split")

    def durations(self, stretch: float) -> Durations:
        """As stand-ins wait: parts and the join stretched, splits not, since those look at no pixel."""
        parts = {round: [work.cpu_seconds for work in self.work if work.round == round and work.name != "split"] for round in self.parts}
        rounds = [(self.of(round, "split").cpu_seconds, tuple(stretch * one for one in parts[round])) for round in parts]
        return Durations(tuple(rounds), stretch * self.of("", "join").cpu_seconds)

    def of(self, round: str, name: str) -> Work:
        """One of them: a part, or `split`; the join is of no round."""
        return next(work for work in self.work if (work.round, work.name) == (round, name))


def record(subject: Subject, capture: Path, folder: Path) -> Recorded:
    """Computes a capture in both ways, in this process, each twice. The less of both counts: the rest is compiling, importing, memory
    that nobody had touched before, and the machine's other work. Raises AssertionError where the bytes differ."""
    subject.share_always()
    once, again = (_recorded_once(subject, capture, folder / attempt) for attempt in ("once", "again"))
    work = [replace(one, cpu_seconds=min(one.cpu_seconds, other.cpu_seconds)) for one, other in zip(once.work, again.work, strict=True)]
    return Recorded(min(once.whole_s, again.whole_s), again.parts, work)


def _recorded_once(subject: Subject, capture: Path, folder: Path) -> Recorded:
    folder.mkdir(parents=True)
    inputs = folder / "inputs"
    inputs.symlink_to((capture / "inputs").resolve())
    whole, begun = Workspace(folder), time.process_time()
    subject.stage.run(whole, subject.params)
    whole_s = time.process_time() - begun
    shared = InParts(subject.stage, inputs, folder / "shared", subject.params)
    made = shared.run()
    assert made is not None, "too few photos to share"
    for path in made[1].rglob("*.*"):
        assert path.read_bytes() == (whole.outputs / path.relative_to(made[1])).read_bytes(), path.name
    return Recorded(whole_s, {round: [asdict(part) for part in parts] for round, parts in shared.parts.items()}, shared.work)


def write(recorded: Recorded, path: Path) -> None:
    """As JSON."""
    path.write_text(json.dumps(asdict(recorded)))


def read(path: Path) -> Recorded:
    """What `write` wrote."""
    stored = json.loads(path.read_bytes())
    return Recorded(stored["whole_s"], stored["parts"], [Work(**work) for work in stored["work"]])
