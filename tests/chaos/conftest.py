"""One mesh for all tests of chaos, gone before other tests begin, and how much of it is wanted: `--chaos full` for everything."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from deploy.demo.receiver import CallerBackend
from shared.storage.minio import MinioStore
from tests.chaos.jobs import Webhooks
from tests.chaos.mesh import ChaosMesh


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A quick run leaves out what takes long."""
    if config.getoption("--chaos") == "full":
        return
    if long := [item for item in items if item.get_closest_marker("full")]:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether everything is wanted."""
    return bool(request.config.getoption("--chaos") == "full")


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
async def store(mesh: ChaosMesh) -> AsyncIterator[MinioStore]:
    store = MinioStore(mesh.minio.endpoint, mesh.minio.access_key, mesh.minio.secret_key, "meshwork")
    yield store
    await store.close()


@pytest.fixture
def webhooks(backend: CallerBackend) -> Webhooks:
    return Webhooks(backend)
