"""One child process as the worker holds it: asked over a socket pair, watched, and killed with everything that it started."""

import asyncio
import contextlib
import contextvars
import os
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import psutil
from loguru import logger

from shared.errors import ChildDied
from shared.runtime.child_protocol import HEADER, Frame, frame_size, pack, unpack
from shared.runtime.settings import WorkerSettings

_MODULE = "shared.runtime.child_main"
_TAIL_LINES = 40  # of its output, shown when it dies
_LINE_CHARACTERS = 2000
_THREAD_VARIABLES = ("MESHWORK_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# The child reads hostile files: it gets none of our secrets.
_SECRET_VARIABLES = ("AMQP_URL", "S3_ACCESS_KEY", "S3_SECRET_KEY", "DATABASE_URL", "API_KEY", "WEBHOOK_SECRET", "LINK_SECRET", "SEAL_KEY")


def child_environment(settings: WorkerSettings, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: thread caps, a writable cache of compiled kernels, our import path, no secrets."""
    environment = dict(os.environ if inherited is None else inherited)
    for name in _SECRET_VARIABLES:
        environment.pop(f"MESHWORK_{name}", None)
    environment["MESHWORK_ALLOWED_PRIVATE_NETWORKS"] = ",".join(settings.allowed_private_networks)
    environment["PYTHONPATH"] = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    environment["PYTHONUNBUFFERED"] = "1"
    for name in _THREAD_VARIABLES:
        environment[name] = str(settings.thread_count())
    environment.setdefault("NUMBA_CACHE_DIR", str(kernel_cache(settings.work_dir)))
    return environment


def kernel_cache(work_dir: Path | None) -> Path:
    """Where compiled kernels are kept. Only this user may write there: numba loads what it finds as code."""
    homes = [work_dir / "kernels"] if work_dir else []
    for folder in (*homes, Path.home() / ".cache" / "meshwork" / "kernels"):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
                return folder
    return Path(tempfile.mkdtemp(prefix="meshwork-kernels-"))


class ChildProcess:
    """A running child. `await ChildProcess.start(…)`, `say`, `hear`, and always `kill`."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lifeline: int
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._lifeline = lifeline
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._context = contextvars.copy_context()  # of the task that it works on: job and stage of its log lines
        self._output = asyncio.create_task(self._log_output())
        self._ended = False

    @classmethod
    async def start(cls, target: str, settings: WorkerSettings) -> "ChildProcess":
        """Starts `python -m shared.runtime.child_main` for the stage `module:Class`."""
        ours, theirs = socket.socketpair()
        life_read, life_write = os.pipe()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", _MODULE, target, str(theirs.fileno()), str(life_read), str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(theirs.fileno(), life_read),
                env=child_environment(settings),
                start_new_session=True,
            )
        except BaseException:
            writer.close()
            os.close(life_write)
            raise
        finally:
            theirs.close()
            os.close(life_read)
        return cls(process, reader, writer, life_write)

    @property
    def pid(self) -> int:
        """Its process id, also its session's and process group's."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return not self._ended and self._process.returncode is None

    async def say(self, frame: Frame) -> None:
        """Asks. Raises ChildDied."""
        self._context = contextvars.copy_context()
        try:
            self._writer.write(pack(frame))
            await self._writer.drain()
        except OSError as error:
            raise await self._obituary() from error

    async def hear(self) -> Frame:
        """The next frame. Raises ChildDied when there is none."""
        try:
            header = await self._reader.readexactly(HEADER.size)
            return unpack(await self._reader.readexactly(frame_size(header)))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise await self._obituary() from error

    def memory_bytes(self) -> int:
        """Resident memory of the child and everything that it started."""
        total = 0
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self.pid)
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
        return total

    async def kill(self) -> None:
        """Ends it and all that it started, now. Returns when it is gone; may be called again."""
        if self._ended:
            return
        self._ended = True
        self._kill_tree()
        os.close(self._lifeline)
        await asyncio.shield(self._bury())

    def _kill_tree(self) -> None:
        strays: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            strays = psutil.Process(self.pid).children(recursive=True)  # a session of their own would escape the group's kill
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for stray in strays:
            with contextlib.suppress(psutil.Error):
                stray.kill()

    async def _bury(self) -> None:
        await self._process.wait()
        self._writer.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._output, 2.0)

    async def _obituary(self) -> ChildDied:
        """What a person can learn from its end."""
        await self.kill()
        code = self._process.returncode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if self._tail:
            logger.error("child ended by {}; its last words:\n{}", how, "\n".join(self._tail))
        hint = " (the system may be out of memory)" if code == -signal.SIGKILL else ""
        return ChildDied(f"the child process ended by {how}{hint}")

    async def _log_output(self) -> None:
        """Its stdout and stderr become lines of our log."""
        stream = self._process.stdout
        assert stream is not None
        rest = b""
        while chunk := await stream.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._log_line(line)
            if len(rest) > _LINE_CHARACTERS:
                self._log_line(rest)
                rest = b""
        self._log_line(rest)

    def _log_line(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()[:_LINE_CHARACTERS]
        if text:
            self._tail.append(text)
            self._context.run(logger.info, "child: {}", text)
