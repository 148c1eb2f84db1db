"""A child process with a log file, that is waited for and ended for certain."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class ServerFailedError(RuntimeError):
    """A server did not start; the message ends with the tail of its log."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something accepts connections on this port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def is_ready(base_url: str) -> bool:
    """Whether `/readyz` of one of our processes answers 200."""
    with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{base_url}/readyz", timeout=2) as answer:
        return bool(answer.status == 200)
    return False


class Process:
    """One program in a session of its own, so that its children end with it. `stop_signal` asks it to end."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.argv, self.log, self.env, self.cwd = list(argv), log, dict(env or {}), cwd
        self._stop_signal = stop_signal
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The running program's id."""
        return self._child.pid if self._child and self._child.poll() is None else None

    def start(self) -> None:
        """Starts it; its output is appended to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.env},
                cwd=self.cwd,
                start_new_session=True,
            )

    def wait_ready(self, is_ready: Callable[[], bool], timeout_s: float = 90) -> None:
        """Returns when `is_ready`; raises ServerFailedError when the program ends or the time is over."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if self.pid is None or time.monotonic() > deadline:
                why = "ended" if self.pid is None else f"was not ready after {timeout_s:.0f} s"
                self.stop()
                raise ServerFailedError(f"{self.argv[0]} {why}\n{self.tail()}")
            time.sleep(0.1)

    def terminate(self) -> None:
        """Asks it to end; does not wait."""
        if self._child is not None:
            _signal(self._child, self._stop_signal)

    def stop(self, timeout_s: float = 30) -> None:
        """Asks it to end, then SIGKILL to everything it started."""
        child = self._child
        if child is None:
            return
        _signal(child, self._stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout_s)
        self._bury(child)

    def kill(self) -> None:
        """SIGKILL to it and everything it started."""
        if self._child is not None:
            self._bury(self._child)

    def _bury(self, child: subprocess.Popen[bytes]) -> None:
        """A supervisor in another thread may have started the next one by now: that one lives."""
        _signal(child, signal.SIGKILL)
        child.wait()
        if self._child is child:
            self._child = None

    def tail(self, lines: int = 30) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)
