"""The child process of a worker: imports one stage and runs it, task after task, until its parent goes away.

    python -m shared.runtime.child_main services.sfm.stage:SfmStage CHANNEL_FD LIFELINE_FD PARENT_PID

It leads a session of its own. A guard, forked before anything is imported, kills the whole session once the lifeline
closes, so that neither this process nor what it started outlives the worker, however the worker ends. Where the kernel
allows, none of them can look into the worker, which has the secrets.
"""

import ctypes
import faulthandler
import importlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from shared.contracts.manifest import StageReport
from shared.errors import OutOfMemory, PermanentError, TransientError
from shared.runtime.child_protocol import HEADER, Frame, error_frame, frame_size, pack, unpack
from shared.runtime.compute import StageInfo
from shared.runtime.confinement import confine
from shared.runtime.out_of_memory import is_out_of_memory
from shared.runtime.stage import Part, PartitionedStage, Stage
from shared.runtime.workspace import Workspace

_NEEDS = ("needs", "split_needs", "join_needs")
_PR_SET_PDEATHSIG = 1
_PROGRESS_EVERY_S = 0.25  # the worker thins out further; this keeps a chatty stage from filling the pipe


def load_stage(target: str) -> Stage:
    """The stage that `package.module:Class` names."""
    module, _, name = target.partition(":")
    return cast(Stage, getattr(importlib.import_module(module), name)())


class Channel:
    """The child's end of the pipe."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._told_at = -1.0
        self._speaking = threading.Lock()  # a stage may report progress from threads of its own

    def say(self, frame: Frame) -> None:
        """Tells the worker."""
        with self._speaking:
            self._connection.sendall(pack(frame))

    def progress(self, fraction: float, message: str) -> None:
        """Tells the worker how far the stage is, not too often."""
        now = time.monotonic()
        if now - self._told_at >= _PROGRESS_EVERY_S or fraction >= 1.0:
            self._told_at = now
            self.say({"say": "progress", "fraction": float(fraction), "message": str(message)[:500]})

    def finished(self, name: str) -> None:
        """Tells the worker that an output is written."""
        self.say({"say": "finished", "output": name})

    def requests(self) -> Iterator[Frame]:
        """What the worker asks, until it hangs up."""
        while header := self._read(HEADER.size):
            yield unpack(self._read(frame_size(header)))

    def _read(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size and (part := self._connection.recv(min(size, 1 << 20))):
            parts.append(part)
            size -= len(part)
        return b"" if size else b"".join(parts)


def answer(stage: Stage, request: Frame, channel: Channel) -> Frame:
    """The last frame of a request, whatever the stage did."""
    try:
        if request["ask"] == "describe":
            return _description(stage)
        return _work(stage, request, channel)
    except (PermanentError, TransientError) as error:
        return error_frame(error)
    except BaseException as error:
        if is_out_of_memory(error):
            return error_frame(OutOfMemory())
        return {"say": "crashed", "traceback": traceback.format_exc()}


def _description(stage: Stage) -> Frame:
    needs = {field: {name: list(globs) for name, globs in getattr(stage, field, {}).items()} for field in _NEEDS}
    rounds, least_inputs = getattr(stage, "rounds", ()), getattr(stage, "least_inputs", StageInfo.least_inputs)
    said = {"say": "stage", "name": stage.name, "version": stage.version}
    return {**said, "rounds": list(rounds), "least_inputs": list(least_inputs), **needs}


def _work(stage: Stage, request: dict[str, Any], channel: Channel) -> Frame:
    _forget_peak_memory()
    workspace = Workspace(Path(request["workspace"]), channel.progress, request["reduction"], request["tries"], channel.finished)
    params = stage.Params.model_validate(request["params"])
    report, parts = StageReport(), list[Frame]()
    match request["ask"]:
        case "split":
            parts = _parts(cast(PartitionedStage, stage).split(workspace, params, request["round"]))
        case "run_part":
            cast(PartitionedStage, stage).run_part(workspace, params, request["round"], request["part"])
        case "join":
            report = cast(PartitionedStage, stage).join(workspace, params)
        case _:
            report = stage.run(workspace, params)
    if not isinstance(report, StageReport):
        raise TypeError(f"{type(stage).__name__} returned {type(report).__name__}, not a StageReport")
    return {"say": "done", "report": report.model_dump(mode="json"), "parts": parts, "peak_memory_bytes": _peak_memory_bytes()}


def _parts(parts: Sequence[Part]) -> list[Frame]:
    if len({part.name for part in parts}) < len(parts):
        raise ValueError(f"two parts of a round share a name: {[part.name for part in parts]}")
    return [asdict(part) for part in parts]


def _forget_peak_memory() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
    except OSError:
        return


def _peak_memory_bytes() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def _die_with(parent_pid: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the call
        os._exit(1)


def _start_guard(lifeline: int) -> None:
    if os.fork():
        os.close(lifeline)
        return
    os.closerange(0, lifeline)
    os.closerange(lifeline + 1, max(lifeline, _highest_descriptor()) + 1)
    while os.read(lifeline, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def _highest_descriptor() -> int:
    return max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())


def main() -> None:
    """Serves requests until the worker hangs up."""
    target = sys.argv[1]
    channel_fd, lifeline, parent_pid = (int(argument) for argument in sys.argv[2:5])
    _start_guard(lifeline)
    _die_with(parent_pid)
    faulthandler.enable()
    if not confine():
        sys.stderr.write("this kernel has no Landlock: a stage could read the secrets of its worker\n")
    channel = Channel(socket.socket(fileno=channel_fd))
    try:
        stage = load_stage(target)
    except BaseException:
        channel.say({"say": "crashed", "traceback": traceback.format_exc()})
        raise
    for request in channel.requests():
        channel.say(answer(stage, request, channel))


if __name__ == "__main__":
    main()
