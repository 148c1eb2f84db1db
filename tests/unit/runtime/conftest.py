"""A mesh in memory, stopped after each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.mesh import Mesh


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """A broker and a store without workers."""
    mesh = Mesh(tmp_path)
    await mesh.store.prepare()
    yield mesh
    await mesh.stop()
