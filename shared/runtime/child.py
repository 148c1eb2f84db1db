"""Compute in a child process that is kept warm between tasks and replaced after a crash, a limit or a number of tasks.

What the worker knows of its stage (name, version, needs) it asks the child, so that no heavy library is ever imported here.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import psutil
from loguru import logger

from shared.contracts.manifest import StageReport
from shared.contracts.split import PartPlan
from shared.errors import ChildDied, OutOfMemory, PermanentError, StageTimeout
from shared.runtime.child_process import ChildProcess
from shared.runtime.child_protocol import Frame, error_of
from shared.runtime.compute import Computed, ComputeTask, OnFinished, OnProgress, StageInfo
from shared.runtime.metrics import CHILD_STARTS
from shared.runtime.settings import WorkerSettings

SHARES_PER_TASK = 10  # dividing a step, a part of it and the join count so little: a large step has hundreds of parts
_MACHINE_SHARE = 0.9  # the rest is the worker's own and the kernel's


class ChildCompute:
    """One stage in one child, one task at a time.

    compute = ChildCompute("services.sfm.stage:SfmStage", WorkerSettings())
    computed = await compute.run(ComputeTask(folder, {}, hard_limit_s=600, memory_limit_bytes=4 << 30), on_progress, on_finished)
    """

    def __init__(self, target: str, settings: WorkerSettings) -> None:
        self._target = target
        self._settings = settings
        self._child: ChildProcess | None = None
        self._info: StageInfo | None = None
        self._shares = 0  # done by this child, in tenths of a task
        self._one_at_a_time = asyncio.Lock()

    async def describe(self) -> StageInfo:
        """Starts the child where none runs, and asks it. The answer is kept."""
        if self._info is None:
            async with self._one_at_a_time:
                await self._ready_child()
        assert self._info is not None
        return self._info

    async def run(self, task: ComputeTask, on_progress: OnProgress, on_finished: OnFinished) -> Computed:
        """Computes within the task's limits. Only an answer keeps the child: any other end, cancellation too, kills it."""
        async with self._one_at_a_time:
            child = await self._ready_child()
            self._shares += SHARES_PER_TASK if task.ask == "run" else 1
            try:
                answer, sampled_peak_bytes = await self._within_limits(child, _converse(child, task, on_progress, on_finished), task)
            except BaseException:
                await self._drop_child()
                raise
            if self._shares >= self._settings.tasks_per_child * SHARES_PER_TASK:
                await self._drop_child()
        return await self._computed(answer, sampled_peak_bytes)

    async def close(self) -> None:
        """Ends the child."""
        await self._drop_child()

    async def _computed(self, answer: Frame, sampled_peak_bytes: int) -> Computed:
        if answer.get("say") == "done":
            report = StageReport.model_validate(answer["report"])
            parts = tuple(PartPlan.model_validate(part) for part in answer["parts"])
            return Computed(report, max(sampled_peak_bytes, int(answer.get("peak_memory_bytes", 0))), parts)
        error = error_of(answer)
        if not isinstance(error, PermanentError):
            await self._drop_child()  # whatever went wrong may have left something behind
        if isinstance(error, ChildDied):
            logger.error("the stage raised:\n{}", answer.get("traceback", "nothing that it could tell"))
        raise error

    async def _ready_child(self) -> ChildProcess:
        if self._child is not None and self._child.alive:
            return self._child
        await self._drop_child()
        child = self._child = await ChildProcess.start(self._target, self._settings)
        self._shares = 0
        try:
            async with asyncio.timeout(self._settings.child_start_s):
                await child.say({"ask": "describe"})
                answer = await child.hear()
        except TimeoutError as error:
            await self._drop_child()
            raise ChildDied(f"the child did not start within {self._settings.child_start_s:.0f} s") from error
        except BaseException:
            await self._drop_child()
            raise
        if answer.get("say") != "stage":
            await self._drop_child()
            logger.error("the stage {} cannot be loaded:\n{}", self._target, answer.get("traceback", ""))
            raise ChildDied(f"the stage {self._target} cannot be loaded")
        CHILD_STARTS.labels(answer["name"]).inc()
        self._info = _info(answer)
        return child

    async def _within_limits(self, child: ChildProcess, conversation: Coroutine[Any, Any, Frame], task: ComputeTask) -> tuple[Frame, int]:
        """The last frame and the largest memory seen, unless a limit is met first."""
        memory = _MemoryWatch(child, min(task.memory_limit_bytes, machine_memory_bytes()), self._settings.memory_check_s)
        answer = asyncio.create_task(conversation)
        watch = asyncio.create_task(memory.run())
        try:
            done, _ = await asyncio.wait({answer, watch}, timeout=task.hard_limit_s, return_when=asyncio.FIRST_COMPLETED)
            if answer in done:
                return answer.result(), memory.peak_bytes
            if watch in done:
                watch.result()
            raise StageTimeout(f"the step took longer than its limit of {task.hard_limit_s:.0f} s")
        finally:
            answer.cancel()
            watch.cancel()
            await asyncio.gather(answer, watch, return_exceptions=True)

    async def _drop_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.kill()


# Of a container, in the second and the first version of cgroups.
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine_memory_bytes() -> int:
    """What a child may use of this machine or container at most: beyond it the kernel would kill, and could not say why."""
    total = psutil.virtual_memory().total
    for limit in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such cgroup, or "max"
            total = min(total, int(limit.read_text()))
    return int(total * _MACHINE_SHARE)


def _info(answer: Frame) -> StageInfo:
    needs, split_needs, join_needs = (
        {name: tuple(globs) for name, globs in answer[field].items()} for field in ("needs", "split_needs", "join_needs")
    )
    pattern, least = answer["least_inputs"]
    return StageInfo(answer["name"], answer["version"], needs, tuple(answer["rounds"]), split_needs, join_needs, (pattern, least))


async def _converse(child: ChildProcess, task: ComputeTask, on_progress: OnProgress, on_finished: OnFinished) -> Frame:
    await child.say(
        {
            "ask": task.ask,
            "workspace": str(task.workspace),
            "params": dict(task.params),
            "reduction": task.reduction,
            "tries": task.tries,
            "round": task.round,
            "part": task.part,
        }
    )
    while True:
        frame = await child.hear()
        match frame.get("say"):
            case "progress":
                await on_progress(float(frame["fraction"]), str(frame["message"]))
            case "finished":
                on_finished(str(frame["output"]))
            case _:
                return frame


class _MemoryWatch:
    """Looks at the child's memory until it is too much."""

    def __init__(self, child: ChildProcess, limit_bytes: int, every_s: float) -> None:
        self._child = child
        self._limit_bytes = limit_bytes
        self._every_s = every_s
        self.peak_bytes = 0

    async def run(self) -> None:
        """Never returns; raises OutOfMemory."""
        while True:
            used_bytes = await asyncio.to_thread(self._child.memory_bytes)
            self.peak_bytes = max(self.peak_bytes, used_bytes)
            if used_bytes > self._limit_bytes:
                raise OutOfMemory(f"the step used {used_bytes >> 20} MiB, its limit is {self._limit_bytes >> 20} MiB")
            await asyncio.sleep(self._every_s)
