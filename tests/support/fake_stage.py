"""Stages that do real artifact work in no time, and misbehave on request: they run in real children, as real ones do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel

from shared.contracts.manifest import ImageVerdict, StageReport, Warning
from shared.errors import PermanentError, TransientError
from shared.runtime.workspace import Workspace

Behaviour = Literal[
    "ok",
    "abort",
    "kill",
    "kill_worker",
    "exit",
    "raise",
    "hang",
    "hang_once",
    "spawn",
    "pry",
    "eat",
    "memory_error",
    "cv2_memory",
    "permanent",
    "transient",
    "chatty",
]


class FakeParams(BaseModel):
    """How the stage behaves."""

    behaviour: Behaviour = "ok"
    bad_tries: int = 1000  # it misbehaves up to this try, and is good afterwards
    seconds: float = 0.0  # of work
    word: str = "word"  # goes into the output
    diary: str = ""  # a file that gets a line for every run: "<pid> <try> <reduction>"


class FakeStage:
    """Writes `out.txt`: the outputs of every earlier stage that it reads, and its own word."""

    name: ClassVar[str] = "ingest"
    version: ClassVar[str] = "1"
    Params: ClassVar[type[BaseModel]] = FakeParams
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"images": ("*",)}

    def run(self, workspace: Workspace, params: FakeParams) -> StageReport:
        write_diary(params, workspace)
        workspace.progress(0.1, "started")
        if workspace.tries <= params.bad_tries:
            MISCHIEF[params.behaviour](workspace)
        work_until = time.monotonic() + params.seconds
        while time.monotonic() < work_until:
            time.sleep(0.02)
            workspace.progress(1 - (work_until - time.monotonic()) / max(params.seconds, 1e-9), "working")
        (workspace.outputs / "deep" / "er").mkdir(parents=True)
        (workspace.outputs / "deep" / "er" / "bytes.bin").write_bytes(bytes(range(256)) * 16)
        workspace.finished(workspace.outputs / "deep" / "er" / "bytes.bin")
        (workspace.outputs / "out.txt").write_text("".join(self.read_inputs(workspace)) + f"{self.name}:{params.word};")
        earlier = [manifest.step for manifest in workspace.earlier_steps()]
        return StageReport(
            summary={"earlier": [*earlier], "tries": workspace.tries, "images": len(workspace.request().images)},
            images=(ImageVerdict(name="a.jpg", status="accepted"),),
            engines={"python": sys.version.split()[0]},
        )

    def read_inputs(self, workspace: Workspace) -> list[str]:
        files = [path for stage in self.needs for path in sorted(workspace.inputs(stage).rglob("*")) if path.is_file()]
        return [path.read_text() for path in files]


class FakeSegmentation(FakeStage):
    """The second one."""

    name = "segmentation"
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"ingest": ("out.txt",)}


class FakeSfm(FakeStage):
    """The third one: reads both."""

    name = "sfm"
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"ingest": ("*.txt",), "segmentation": ("*",)}

    def read_inputs(self, workspace: Workspace) -> list[str]:
        return [(workspace.inputs(stage) / "out.txt").read_text() for stage in self.needs]


class UnloadableStage:
    """Cannot be made."""

    def __init__(self) -> None:
        raise ImportError("libmissing.so.1")


def write_diary(params: FakeParams, workspace: Workspace) -> None:
    if params.diary:
        with Path(params.diary).open("a") as diary:
            diary.write(f"{os.getpid()} {workspace.tries} {workspace.reduction}\n")


def abort(workspace: Workspace) -> None:
    sys.stderr.write("about to abort\n")
    os.abort()


def kill_worker(workspace: Workspace) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(3600)  # ends with it


def hang_once(workspace: Workspace) -> None:
    """Of all runs, however they are counted."""
    hung = workspace.root.parent / f"hung-{workspace.request().job_id}"
    if not hung.exists():
        hung.touch()
        time.sleep(3600)


def spawn(workspace: Workspace) -> None:
    sleeper = subprocess.Popen(["sleep", "3600"])
    (workspace.root.parent / "spawned.pid").write_text(str(sleeper.pid))
    time.sleep(3600)


def pry(workspace: Workspace) -> None:
    """Looks for secrets in the worker's environment, itself and by a program; what it reads, or why not, goes into a file."""
    environment = f"/proc/{os.getppid()}/environ"
    told = subprocess.run(["cat", environment], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False).stdout
    try:
        told += Path(environment).read_bytes()
    except OSError as error:
        told += type(error).__name__.encode()
    (workspace.root.parent / "pried").write_bytes(told)


def eat(workspace: Workspace) -> None:
    hoard = []
    while workspace.reduction == 0:
        hoard.append(bytearray(os.urandom(1 << 20) * 8))
        time.sleep(0.01)


def raise_bug(workspace: Workspace) -> None:
    raise RuntimeError("a bug in the stage")


def raise_memory_error(workspace: Workspace) -> None:
    raise MemoryError


def raise_cv2_memory(workspace: Workspace) -> None:
    import cv2
    import numpy as np

    cv2.resize(np.zeros((8, 8), np.uint8), (2_000_000_000, 100_000))  # more than a process can address


def raise_permanent(workspace: Workspace) -> None:
    report = StageReport(warnings=(Warning(code="TOO_BLURRED", message="blurred"),), summary={"seen": 3})
    raise PermanentError("TOO_FEW_REGISTERED", "Only 1 of 3 photos could be placed.", report=report)


def raise_transient(workspace: Workspace) -> None:
    raise TransientError("the photo server is busy")


def chat(workspace: Workspace) -> None:
    for i in range(20_000):
        workspace.progress(i / 20_000, "x" * 1000)


MISCHIEF: dict[Behaviour, Callable[[Workspace], None]] = {
    "ok": lambda workspace: None,
    "abort": abort,
    "kill": lambda workspace: os.kill(os.getpid(), signal.SIGKILL),
    "kill_worker": kill_worker,
    "exit": lambda workspace: os._exit(3),
    "raise": raise_bug,
    "hang": lambda workspace: time.sleep(3600),
    "hang_once": hang_once,
    "spawn": spawn,
    "pry": pry,
    "eat": eat,
    "memory_error": raise_memory_error,
    "cv2_memory": raise_cv2_memory,
    "permanent": raise_permanent,
    "transient": raise_transient,
    "chatty": chat,
}
