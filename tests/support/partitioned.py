"""Partitioned stages: one scripted, in this process, and one for real children."""

import asyncio
import time
from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel

from shared.contracts.manifest import Manifest, StageReport
from shared.contracts.messages import StageMessage
from shared.contracts.split import PartMade, PartPlan, Split
from shared.runtime.compute import Computed, ComputeTask, OnFinished, OnProgress, StageInfo
from shared.runtime.stage import Part
from shared.runtime.workspace import Workspace
from shared.storage import keys
from tests.support.fake_stage import MISCHIEF, FakeParams, write_diary
from tests.support.mesh import NEEDS, Mesh, Script, ScriptedCompute

Rounds = Mapping[str, tuple[Part, ...]]
ONE_ROUND: Rounds = {"only": (Part("a"), Part("b"), Part("c"))}
TWO_ROUNDS: Rounds = {"first": (Part("a", weight=2.0), Part("b")), "second": (Part("x", parts=("a",)), Part("y"), Part("z", needs={}))}


class PartitionedCompute(ScriptedCompute):
    """A part's `out.txt` is what it reads, then `<round>.<part>;`. The join's is every part's, in brackets."""

    def __init__(self, stage: str, rounds: Rounds = ONE_ROUND, script: Script | None = None, version: str = "1") -> None:
        super().__init__(stage, script)
        self.rounds = rounds
        self.version = version
        self.least_inputs = ("*", 0)

    async def describe(self) -> StageInfo:
        """With rounds; `split` reads no input, `join` reads every round."""
        join_needs = {f"parts/{round}": ("*.txt",) for round in self.rounds}
        return StageInfo(self.stage, self.version, NEEDS[self.stage], tuple(self.rounds), {}, join_needs, self.least_inputs)

    async def run(self, task: ComputeTask, on_progress: OnProgress, on_finished: OnFinished) -> Computed:
        """Whatever is asked."""
        if task.ask == "run":
            return await super().run(task, on_progress, on_finished)
        self.tasks.append(task)
        self.finished = on_finished
        try:
            report = await self.script(task, on_progress) if self.script else None
        except BaseException:
            self.ended_early += 1
            raise
        if task.ask == "split":
            parts = tuple(PartPlan(name=p.name, weight=p.weight, needs=p.needs, parts=p.parts) for p in self.rounds[task.round])
            return Computed(StageReport(), 1 << 20, parts)
        texts = "".join(path.read_text() for path in sorted(task.workspace.rglob("*.txt")))
        made = f"[{texts}]" if task.ask == "join" else f"{texts}{task.round}.{task.part};"
        (task.workspace / "outputs").mkdir(exist_ok=True)
        (task.workspace / "outputs" / "out.txt").write_text(made)
        return Computed(report or StageReport(summary={"tries": task.tries}), 2 << 20 if task.ask == "run_part" else 1 << 20)

    def asked(self) -> list[str]:
        """What it was asked, in order: `split first`, `run_part first.a`, `join`, `run`."""
        return [" ".join(filter(None, (task.ask, ".".join(filter(None, (task.round, task.part)))))) for task in self.tasks]


class PartGate:
    """Holds every part, or those of one round, until it is let go; `entered` are the parts that wait."""

    def __init__(self, round: str | None = None) -> None:
        self.round = round
        self.entered: list[str] = []
        self.let_go = asyncio.Event()

    async def script(self, task: ComputeTask, on_progress: OnProgress) -> StageReport | None:
        """Of a `PartitionedCompute`."""
        if task.ask == "run_part" and self.round in (None, task.round):
            self.entered.append(task.part)
            await self.let_go.wait()
        return None


class FakePartitioned:
    """In a real child: parts that write their names, after a while; the second misbehaves as `FakeStage` does."""

    letters: ClassVar[str] = "ab"
    name: ClassVar[str] = "ingest"
    version: ClassVar[str] = "1"
    Params: ClassVar[type[BaseModel]] = FakeParams
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"images": ("*",)}
    rounds: ClassVar[tuple[str, ...]] = ("letters",)
    split_needs: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    join_needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"parts/letters": ("*",)}
    least_inputs: ClassVar[tuple[str, int]] = ("images/*", 0)

    def split(self, workspace: Workspace, params: FakeParams, round: str) -> tuple[Part, ...]:
        return tuple(Part(letter if params.word != "twice" else "a") for letter in self.letters)

    def run_part(self, workspace: Workspace, params: FakeParams, round: str, part: str) -> None:
        write_diary(params, workspace)
        if part == "b" and workspace.tries <= params.bad_tries:
            MISCHIEF[params.behaviour](workspace)
        time.sleep(params.seconds)
        (workspace.outputs / "deep").mkdir()
        (workspace.outputs / "deep" / "letter.txt").write_text(part)

    def join(self, workspace: Workspace, params: FakeParams) -> StageReport:
        texts = [(workspace.part("letters", part) / "deep" / "letter.txt").read_text() for part in self.letters]
        (workspace.outputs / "out.txt").write_text("".join(texts))
        return StageReport(summary={"letters": len(texts)})

    def run(self, workspace: Workspace, params: FakeParams) -> StageReport:
        raise AssertionError("it is always worth splitting")


class SixLetters(FakePartitioned):
    """More than there are workers."""

    letters = "abcdef"


async def splits_of(mesh: Mesh, message: StageMessage) -> list[Split]:
    """Of a step, in the order of their keys."""
    prefix = keys.step_prefix(message.job_id, message.position, message.step.name)
    found = [key for key in await mesh.store.list(prefix) if key.endswith("/split.json")]
    return [Split.model_validate_json(await mesh.store.get(key)) for key in found]


async def split_of(mesh: Mesh, message: StageMessage, round: str) -> Split | None:
    """The split of a round, if there is one."""
    return next((split for split in await splits_of(mesh, message) if split.round == round), None)


async def the_split(mesh: Mesh, message: StageMessage, round: str | None = None) -> Split:
    """The one that there is, of a round where it is named."""
    found = [split for split in await splits_of(mesh, message) if round in (None, split.round)]
    assert len(found) == 1, found
    return found[0]


def a_share(message: StageMessage, part: str | None, split: str = "nowhere") -> StageMessage:
    """A message about a split that nobody has written."""
    step = {"job_id": message.job_id, "step": message.step.name, "position": message.position, "stage": message.step.stage}
    return message.share(Split(**step, stage_version="1", id=split, round="only", parts=()), part)


async def part_made(mesh: Mesh, split: Split, part: str) -> PartMade:
    """What was made of a part."""
    key = keys.part_made(split.job_id, split.position, split.step, split.id, part)
    return PartMade.model_validate_json(await mesh.store.get(key))


def part_key(split: Split, made: PartMade, name: str = "out.txt") -> str:
    """Where an output of a part is."""
    return keys.part_file(split.job_id, split.position, split.step, split.id, made.part, made.attempt, name)


def shares(messages: list[StageMessage]) -> list[str | None]:
    """The parts that messages are about; None: what follows them."""
    return [message.part for message in messages if message.split is not None]


def joined_parts(manifest: Manifest) -> list[str]:
    """What a step was joined from."""
    return [f"{link.round}.{link.part}" for link in manifest.parts]
