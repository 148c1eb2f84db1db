"""A compute that waits as long as the recorded one took, and writes as many files as it did."""

import asyncio

from shared.contracts.manifest import StageReport
from shared.contracts.split import PartPlan
from shared.runtime.compute import Computed, ComputeTask, OnFinished, OnProgress, StageInfo
from shared.runtime.stage import PartitionedStage
from tests.benchmarks.scale.recording import Recorded


class StandIn:
    """One replica's. It waits `stretch` times as long; for a split as long: that one looks at no pixel.

    `full_size`: files as large as the recorded ones; else of a byte, so that the machine's two cores do not carry the bytes of sixteen.
    """

    def __init__(self, stage: PartitionedStage, recorded: Recorded, stretch: float = 1.0, full_size: bool = False) -> None:
        self._stage, self._recorded, self._stretch, self._full_size = stage, recorded, stretch, full_size

    async def describe(self) -> StageInfo:
        """As the stage that it stands for."""
        stage = self._stage
        return StageInfo(stage.name, stage.version, stage.needs, stage.rounds, stage.split_needs, stage.join_needs, stage.least_inputs)

    async def run(self, task: ComputeTask, on_progress: OnProgress, on_finished: OnFinished) -> Computed:
        """Whatever is asked."""
        name = {"split": "split", "join": "join"}.get(task.ask, task.part)
        work = self._recorded.of("" if task.ask == "join" else task.round, name)
        await asyncio.sleep(work.cpu_seconds * (1.0 if task.ask == "split" else self._stretch))
        if task.ask == "split":
            return Computed(StageReport(), parts=tuple(PartPlan.model_validate(part) for part in self._recorded.parts[task.round]))
        for file, size in work.outputs.items():
            path = task.workspace / "outputs" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(size if self._full_size else 1))
        return Computed(StageReport())

    async def close(self) -> None:
        """Nothing to end."""
