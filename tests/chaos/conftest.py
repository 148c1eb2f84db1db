"""One mesh for all tests of chaos, gone before other tests begin, and how much of it is wanted: `--chaos full` for everything."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.demo.receiver import CallerBackend
from tests.chaos.jobs import Webhooks
from tests.chaos.mesh import ChaosMesh


@pytest.fixture(scope="package")
def mesh() -> Iterator[ChaosMesh]:
    folder = Path(tempfile.mkdtemp(prefix="meshwork-chaos-"))
    folder.chmod(0o755)  # PostgreSQL's own user must get through
    mesh = ChaosMesh(folder / "mesh")
    try:
        mesh.start()
        with mesh.watched():
            yield mesh
    finally:
        mesh.destroy()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="package")
def api(mesh: ChaosMesh) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=mesh.api_url, headers={"X-API-Key": mesh.secrets["MESHWORK_API_KEY"]}, timeout=30) as client:
        yield client


@pytest.fixture
def backend(mesh: ChaosMesh, tmp_path: Path) -> Iterator[CallerBackend]:
    backend = CallerBackend(tmp_path, mesh.secrets["MESHWORK_WEBHOOK_SECRET"])
    yield backend
    backend.close()


@pytest.fixture
def webhooks(backend: CallerBackend) -> Webhooks:
    return Webhooks(backend)
