"""The native mesh on three real servers, driven over HTTP as a customer would."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from deploy.demo.receiver import CallerBackend
from deploy.native.mesh import Mesh, Ports

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MESHWORK_TEST_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="package")
def mesh() -> Iterator[Mesh]:
    """Servers, gateway, webhooks and one worker per stage, each a process. A webhook that is refused is called again after 10 s."""
    folder = Path(tempfile.mkdtemp(prefix="meshwork-e2e-"))
    folder.chmod(0o755)  # PostgreSQL's own user must get through
    environment = {"MESHWORK_ALLOWED_PRIVATE_NETWORKS": "127.0.0.1/32", "MESHWORK_WEBHOOK_SCHEDULE": "10s,10s,10s"}
    mesh = Mesh(folder / "mesh", Ports(), environment)
    try:
        mesh.start()
        yield mesh
    finally:
        if kept := os.environ.get("MESHWORK_TEST_LOGS"):
            shutil.copytree(folder / "mesh" / "logs", kept, dirs_exist_ok=True)
        mesh.destroy()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="package")
def api(mesh: Mesh) -> Iterator[httpx.Client]:
    """The mesh's API with its key."""
    with httpx.Client(base_url=mesh.api_url, headers={"X-API-Key": mesh.secrets["MESHWORK_API_KEY"]}, timeout=30) as client:
        yield client


@pytest.fixture
def caller(mesh: Mesh) -> Iterator[Callable[[Path], CallerBackend]]:
    """Makes a caller's backend that serves a folder of photos and receives webhooks."""
    with ExitStack() as open_backends:

        def make(photos: Path) -> CallerBackend:
            backend = CallerBackend(photos, mesh.secrets["MESHWORK_WEBHOOK_SECRET"])
            open_backends.callback(backend.close)
            return backend

        yield make


@pytest.fixture(scope="session")
def real_photos() -> Path:
    """Folders of real photographs."""
    if not DATA.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"no photographs in {DATA}")
        pytest.skip(f"no photographs in {DATA}; set MESHWORK_TEST_DATA")
    return DATA


@pytest.fixture(scope="session")
def small_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 small rendered photos of an object on textured ground."""
    from deploy.demo.capture import render_capture

    folder = tmp_path_factory.mktemp("capture")
    render_capture(folder, views=12, width=640)
    return folder / "photos"
