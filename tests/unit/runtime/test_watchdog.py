"""A blocked event loop is noticed from outside."""

import asyncio
import subprocess
import sys
import time

from loguru import logger

from shared.runtime.watchdog import EXIT_BLOCKED, LoopWatchdog
from tests.support.eventually import wait_until

BLOCKED_FOR_GOOD = """
import asyncio, time
from shared.runtime.watchdog import LoopWatchdog

async def main():
    LoopWatchdog("test", warn_s=0.1, exit_s=0.3).start(asyncio.get_running_loop())
    time.sleep(30)

asyncio.run(main())
"""


def test_a_blocked_loop_shows_its_stacks() -> None:
    """The log names the line that blocks."""
    logged: list[str] = []
    sink = logger.add(logged.append, format="{message}")

    async def block() -> None:
        watchdog = LoopWatchdog("test", warn_s=0.1, exit_s=60)
        watchdog.start(asyncio.get_running_loop())
        the_line_that_blocks(logged)
        watchdog.stop()

    asyncio.run(block())
    logger.remove(sink)

    assert any("the_line_that_blocks" in line for line in logged)


def the_line_that_blocks(logged: list[str]) -> None:
    wait_until(lambda: logged, 5)


def test_a_loop_blocked_for_good_ends_the_process() -> None:
    """A process that can neither work nor leave is started again by whoever supervises it."""
    started = time.monotonic()

    process = subprocess.run([sys.executable, "-c", BLOCKED_FOR_GOOD], timeout=20, check=False, capture_output=True)

    assert process.returncode == EXIT_BLOCKED
    assert time.monotonic() - started < 15
