"""Watches the event loop from a thread: a blocked loop starves heartbeats and probes, so it is shown, and in the end left."""

import asyncio
import os
import sys
import threading
import time
import traceback

from loguru import logger

from shared.runtime.metrics import LOOP_BLOCKED

EXIT_BLOCKED = 70  # EX_SOFTWARE: whoever supervises the process starts it again


class LoopWatchdog:
    """Logs every thread's stack when the loop does not answer for `warn_s`, and ends the process after `exit_s`."""

    def __init__(self, process: str, warn_s: float, exit_s: float) -> None:
        self._process = process
        self._warn_s = warn_s
        self._exit_s = exit_s
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watches `loop` from now on."""
        self._thread = threading.Thread(target=self._watch, args=(loop,), name="loop-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watches no longer."""
        self._stopped.set()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopped.wait(self._warn_s / 2):
            answered = threading.Event()
            try:
                loop.call_soon_threadsafe(answered.set)
            except RuntimeError:  # the loop was closed
                return
            if not answered.wait(self._warn_s):
                self._blocked(answered)

    def _blocked(self, answered: threading.Event) -> None:
        LOOP_BLOCKED.labels(self._process).inc()
        logger.error("event loop blocked for {} s; stacks:\n{}", self._warn_s, stacks())
        asked = time.monotonic()
        while not answered.wait(0.5):
            if self._stopped.is_set():
                return
            if time.monotonic() - asked > self._exit_s:
                logger.critical("event loop blocked for good: leaving")
                os._exit(EXIT_BLOCKED)


def stacks() -> str:
    """Where every thread of this process is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames().items()
    return "\n".join(f"[{names.get(ident, ident)}]\n{''.join(traceback.format_stack(frame))}" for ident, frame in frames)
