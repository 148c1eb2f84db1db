"""A mesh in memory, stopped after each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.runtime.workfolder import WorkFolder
from tests.support.mesh import Mesh


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """A broker and a store without workers."""
    mesh = Mesh(tmp_path)
    await mesh.store.prepare()
    yield mesh
    await mesh.stop()


@pytest.fixture
def free_bytes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What is free on the disk of the workspaces, for the test to say."""
    free = {"bytes": 1 << 40}
    monkeypatch.setattr(WorkFolder, "_free_bytes", lambda folder: free["bytes"])
    return free
