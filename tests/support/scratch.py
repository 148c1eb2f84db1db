"""Where processes of ours keep what nobody reads again."""

import tempfile
from pathlib import Path


def scratch_folder(name: str) -> tempfile.TemporaryDirectory[str]:
    """In memory where there is a place; removed by whoever opened it, so that its processes may end without clearing away."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix=f"meshwork-{name}-", dir=memory if memory.is_dir() else None)
