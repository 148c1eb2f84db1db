"""Compute in a child: kept warm, limited, killed with all that it started; its errors cross as data."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from shared.errors import ChildDied, OutOfMemory, PermanentError, StageTimeout, TransientError
from shared.runtime.child import SHARES_PER_TASK, ChildCompute
from shared.runtime.child_process import child_environment
from shared.runtime.compute import Computed, ComputeTask
from shared.runtime.inputs import write_context
from shared.runtime.settings import WorkerSettings
from tests.support.builders import a_request
from tests.support.eventually import eventually, wait_until
from tests.support.liveness import is_running

TARGET = "tests.support.fake_stage:FakeStage"


@pytest.fixture
async def compute() -> AsyncIterator[ChildCompute]:
    compute = ChildCompute(TARGET, WorkerSettings(threads=1, memory_check_s=0.1))
    yield compute
    await compute.close()


class Bench:
    """A workspace and what was told while something ran in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.told: list[tuple[float, str]] = []
        self.finished: list[str] = []
        write_context(root, a_request("j"), ())

    async def on_progress(self, fraction: float, message: str) -> None:
        self.told.append((fraction, message))

    async def run(self, compute: ChildCompute, hard_limit_s: float = 60, memory: int = 1 << 30, **params: Any) -> Computed:
        folder = self.root / f"run{len(list(self.root.iterdir()))}"
        write_context(folder, a_request("j"), ())
        return await compute.run(ComputeTask(folder, params, hard_limit_s, memory), self.on_progress, self.finished.append)

    def pids(self) -> list[int]:
        diary = self.root / "diary"
        return [int(line.split()[0]) for line in diary.read_text().splitlines()] if diary.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "work")


async def test_the_child_describes_its_stage(compute: ChildCompute) -> None:
    """Name, version and needs come from the child: nothing heavy is imported here."""
    info = await compute.describe()

    assert (info.name, info.version, info.needs) == ("ingest", "1", {"images": ("*",)})


async def test_a_report_comes_back_and_the_child_stays_warm(compute: ChildCompute, bench: Bench) -> None:
    """Two tasks, one process; the peak memory is a process's, not zero. What is finished is told by its name."""
    diary = str(bench.root / "diary")

    first = await bench.run(compute, diary=diary)
    await bench.run(compute, diary=diary)

    assert first.report.summary["images"] == 3
    assert 5 << 20 < first.peak_memory_bytes < 1 << 30
    assert len(set(bench.pids())) == 1
    assert (0.1, "started") in bench.told
    assert bench.finished == ["deep/er/bytes.bin"] * 2


async def test_the_child_is_replaced_after_a_number_of_tasks(bench: Bench) -> None:
    """Whatever a native library leaks ends with its process."""
    compute = ChildCompute(TARGET, WorkerSettings(tasks_per_child=2))
    try:
        for _ in range(4):
            await bench.run(compute, diary=str(bench.root / "diary"))
    finally:
        await compute.close()

    first, second, third, fourth = bench.pids()
    assert first == second != third == fourth


async def test_parts_of_a_step_wear_a_child_less(bench: Bench) -> None:
    """One large step has hundreds: loading libraries and kernels again for a few of them would cost as much as they do."""
    compute = ChildCompute("tests.support.partitioned:FakePartitioned", WorkerSettings(tasks_per_child=1))
    try:
        for k in range(SHARES_PER_TASK + 2):
            params = {"diary": str(bench.root / "diary")}
            task = ComputeTask(bench.root / f"part{k}", params, 60, 1 << 30, ask="run_part", round="letters", part="a")
            write_context(task.workspace, a_request("j"), ())
            await compute.run(task, bench.on_progress, bench.finished.append)
    finally:
        await compute.close()

    pids = bench.pids()
    assert len(set(pids[:SHARES_PER_TASK])) == 1
    assert pids[0] != pids[SHARES_PER_TASK] == pids[-1]


@pytest.mark.parametrize(("behaviour", "how"), [("abort", "SIGABRT"), ("kill", "SIGKILL"), ("exit", "exit code 3")])
async def test_a_crash_ends_the_child_not_the_worker(compute: ChildCompute, bench: Bench, behaviour: str, how: str) -> None:
    """A native crash, the kernel's OOM kill and an exit are ChildDied; the next task gets a fresh child."""
    with pytest.raises(ChildDied, match=how):
        await bench.run(compute, behaviour=behaviour)

    assert (await bench.run(compute)).report.summary["tries"] == 1


async def test_an_unforeseen_exception_is_logged_here_and_told_to_nobody(compute: ChildCompute, bench: Bench) -> None:
    """Callers never see a stack trace; the operator does."""
    logged: list[str] = []
    sink = logger.add(logged.append, format="{message}")
    with pytest.raises(ChildDied) as caught:
        await bench.run(compute, behaviour="raise")

    logger.remove(sink)
    assert "a bug in the stage" not in str(caught.value)
    assert any("RuntimeError: a bug in the stage" in line for line in logged)


async def test_a_permanent_error_crosses_with_code_hint_and_report(compute: ChildCompute, bench: Bench) -> None:
    """What the stage can still say comes with the error; the child stays."""
    diary = str(bench.root / "diary")
    with pytest.raises(PermanentError, match=r"Only 1 of 3") as caught:
        await bench.run(compute, behaviour="permanent", diary=diary)
    await bench.run(compute, diary=diary)

    assert caught.value.code == "TOO_FEW_REGISTERED"
    assert "overlap" in caught.value.hint
    assert caught.value.report.summary == {"seen": 3}  # type: ignore[attr-defined]
    assert len(set(bench.pids())) == 1


async def test_a_transient_error_crosses(compute: ChildCompute, bench: Bench) -> None:
    """It stays transient, with its sentence."""
    with pytest.raises(TransientError, match="busy"):
        await bench.run(compute, behaviour="transient")


@pytest.mark.parametrize("behaviour", ["memory_error", "cv2_memory"])
async def test_a_memory_error_is_out_of_memory(compute: ChildCompute, bench: Bench, behaviour: str) -> None:
    """Python's own MemoryError and OpenCV's, which is none, count as well as the limit."""
    with pytest.raises(OutOfMemory):
        await bench.run(compute, behaviour=behaviour)


async def test_a_child_that_eats_memory_is_ended(compute: ChildCompute, bench: Bench) -> None:
    """The limit holds for the child and all that it started."""
    with pytest.raises(OutOfMemory, match="its limit is 200 MiB"):
        await bench.run(compute, memory=200 << 20, behaviour="eat")


async def test_a_hang_is_ended_by_the_limit(compute: ChildCompute, bench: Bench) -> None:
    """A step that takes longer than its hard limit is a StageTimeout, and its process is gone."""
    with pytest.raises(StageTimeout):
        await bench.run(compute, hard_limit_s=1.0, behaviour="hang", diary=str(bench.root / "diary"))

    assert not is_running(bench.pids()[0])


async def test_cancelling_kills_the_child_and_its_children(compute: ChildCompute, bench: Bench) -> None:
    """When the task is gone, so is everything that it started."""
    task = asyncio.create_task(bench.run(compute, behaviour="spawn", diary=str(bench.root / "diary")))
    spawned = bench.root / "spawned.pid"
    sleeper = int(await eventually(lambda: spawned.exists() and spawned.read_text()))

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not is_running(bench.pids()[0])
    await eventually(lambda: not is_running(sleeper), 2)


async def test_a_stage_that_cannot_be_loaded_says_so() -> None:
    """A missing library is ChildDied, not a hang."""
    compute = ChildCompute("tests.support.fake_stage:UnloadableStage", WorkerSettings())
    with pytest.raises(ChildDied, match="cannot be loaded"):
        await compute.describe()
    await compute.close()


async def test_a_chatty_stage_is_thinned_out(compute: ChildCompute, bench: Bench) -> None:
    """20,000 progress reports do not become 20,000 messages."""
    await bench.run(compute, behaviour="chatty")

    assert len(bench.told) < 200


async def test_wrong_params_are_our_mistake(compute: ChildCompute, bench: Bench) -> None:
    """The gateway checked them against the schema: what fails here is not the caller's fault."""
    with pytest.raises(ChildDied):
        await bench.run(compute, seconds="soon")


def test_the_child_gets_no_secrets() -> None:
    """What reads hostile files holds no credentials; threads are capped."""
    inherited = {"MESHWORK_AMQP_URL": "amqp://a:b@c", "MESHWORK_S3_SECRET_KEY": "s", "MESHWORK_SEAL_KEY": "k", "MESHWORK_MODEL": "u2net"}

    environment = child_environment(WorkerSettings(threads=2, allowed_private_networks=("10.0.0.0/8", "minio")), inherited)

    assert [name for name in environment if name.startswith("MESHWORK_")] == [
        "MESHWORK_MODEL",
        "MESHWORK_ALLOWED_PRIVATE_NETWORKS",
        "MESHWORK_THREADS",
    ]
    assert environment["MESHWORK_ALLOWED_PRIVATE_NETWORKS"] == "10.0.0.0/8,minio"
    assert environment["MESHWORK_THREADS"] == environment["OMP_NUM_THREADS"] == environment["NUMBA_NUM_THREADS"] == "2"


PARENT = """
import asyncio, sys
from pathlib import Path
from shared.runtime.child import ChildCompute
from shared.runtime.compute import ComputeTask
from shared.runtime.settings import WorkerSettings

async def main():
    async def ignore(fraction, message): pass
    compute = ChildCompute("tests.support.fake_stage:FakeStage", WorkerSettings())
    params = {"behaviour": sys.argv[3], "diary": sys.argv[2]}
    await compute.run(ComputeTask(Path(sys.argv[1]), params, 60, 1 << 30), ignore, print)

asyncio.run(main())
"""


def test_a_stage_cannot_look_into_its_worker(tmp_path: Path) -> None:
    """The worker's environment, which has the secrets, is under /proc for every process of the same user; ours have no capabilities."""
    work = tmp_path / "work" / "w"
    write_context(work, a_request("j"), ())
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    command = [*bare, sys.executable, "-c", PARENT, str(work), str(tmp_path / "diary"), "pry"]
    subprocess.run(command, cwd=Path.cwd(), env=os.environ | {"MESHWORK_SEAL_KEY": "of the worker"}, check=True, timeout=60)
    said = (work.parent / "pried").read_text()
    assert "Permission denied" in said and "PermissionError" in said
    assert "of the worker" not in said


def test_the_child_and_its_children_die_with_a_killed_worker(tmp_path: Path) -> None:
    """kill -9 of the worker leaves nothing behind, not even what the stage started."""
    work = tmp_path / "work" / "w"
    write_context(work, a_request("j"), ())
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(work), str(tmp_path / "diary"), "spawn"], cwd=Path.cwd())
    spawned = work.parent / "spawned.pid"
    sleeper = int(wait_until(lambda: spawned.exists() and spawned.read_text(), 20))
    child = int((tmp_path / "diary").read_text().split()[0])
    assert is_running(child)

    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()

    killed_at = time.monotonic()
    wait_until(lambda: not is_running(child) and not is_running(sleeper), 3)
    assert time.monotonic() - killed_at < 3
