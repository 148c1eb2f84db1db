"""Whether processes are there."""

import psutil


def is_running(pid: int) -> bool:
    """Whether a process runs: one that has ended does not, be it still to be waited for, or gone while it was looked at."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
