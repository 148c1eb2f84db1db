"""Networks that callers give by URL: only what was checked is kept and used, within bounds, and nobody's file is another's."""

import asyncio
import hashlib
import os
from collections.abc import Coroutine, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from deploy.demo.receiver import CallerBackend
from services.segmentation.model_cache import ModelCache
from services.segmentation.settings import SegmentationSettings
from shared.errors import PermanentError
from tests.unit.segmentation.photos_in_memory import run
from tests.unit.segmentation.test_segmentation_stage import brightness_model, model, photo_of_a_disc

PHOTOS = [photo_of_a_disc(0)[0]]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of kept models."""
    monkeypatch.setenv("MESHWORK_WORK_DIR", str(tmp_path))
    monkeypatch.setenv("MESHWORK_ALLOWED_PRIVATE_NETWORKS", "127.0.0.1/32")
    return tmp_path / "meshwork-models"


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A folder of which a caller's server has the files."""
    (tmp_path / "served").mkdir()
    return tmp_path / "served"


@pytest.fixture
def url(served: Path) -> Iterator[str]:
    """Where they are."""
    with closing(CallerBackend(served, "whsec_" + "a" * 32)) as caller:
        yield f"{caller.url}/photos"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_model_is_fetched_once(kept: Path, served: Path, url: str, tmp_path: Path) -> None:
    """The next attempt takes what was kept: its server is not asked again."""
    data = brightness_model(served / "dark.onnx").read_bytes()
    params = model(url=f"{url}/dark.onnx", sha256=sha256(data))
    _, first = run(tmp_path / "1", PHOTOS, params)
    (served / "dark.onnx").unlink()
    _, again = run(tmp_path / "2", PHOTOS, params)
    assert first["masks"] == again["masks"] != {}
    assert [path.name for path in kept.iterdir()] == [sha256(data)]


def test_who_lies_about_a_model_changes_nobody_s(kept: Path, served: Path, url: str, tmp_path: Path) -> None:
    """Another file under the sha256 of somebody's model is refused, leaves nothing, and takes nothing away."""
    data = brightness_model(served / "dark.onnx").read_bytes()
    (served / "lie.onnx").write_bytes(b"another network")
    lie = model(url=f"{url}/lie.onnx", sha256=sha256(data))
    for number in (1, 2):
        with pytest.raises(PermanentError, match="sha256 differs"):
            run(tmp_path / f"lie-{number}", PHOTOS, lie)
        assert not kept.exists()
    run(tmp_path / "true", PHOTOS, model(url=f"{url}/dark.onnx", sha256=sha256(data)))
    assert [path.read_bytes() for path in kept.iterdir()] == [data]


def test_a_lie_that_arrives_beside_the_true_model_does_not_take_its_place(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two attempts at once: the true model is kept while the other one's file is still arriving under the same sha256."""
    data = brightness_model(tmp_path / "dark.onnx").read_bytes()
    cache = ModelCache(kept, 1 << 20)

    def lie(url: str, path: Path, settings: SegmentationSettings) -> Coroutine[None, None, str]:
        path.write_bytes(b"another network")
        cache.keep(sha256(data), tmp_path / "dark.onnx")
        return asyncio.sleep(0, sha256(b"another network"))

    monkeypatch.setattr("services.segmentation.onnx_model._fetch", lie)
    with pytest.raises(PermanentError, match="sha256 differs"):
        run(tmp_path / "lie", PHOTOS, model(url="https://lie.example/dark.onnx", sha256=sha256(data)))
    assert [path.read_bytes() for path in kept.iterdir()] == [data]
    assert cache.take(sha256(data), tmp_path / "mine")


def test_where_the_folder_refuses_nothing_is_kept_and_nothing_fails(kept: Path, served: Path, url: str, tmp_path: Path) -> None:
    """As a folder of another user does: every attempt fetches its own."""
    data = brightness_model(served / "dark.onnx").read_bytes()
    kept.write_bytes(b"not a folder")
    _, listing = run(tmp_path / "job", PHOTOS, model(url=f"{url}/dark.onnx", sha256=sha256(data)))
    assert listing["masks"] != {}
    assert kept.read_bytes() == b"not a folder"


def test_what_was_kept_and_changed_is_fetched_again(kept: Path, served: Path, url: str, tmp_path: Path) -> None:
    """Its sha256 is compared before every use."""
    data = brightness_model(served / "dark.onnx").read_bytes()
    kept.mkdir()
    (kept / sha256(data)).write_bytes(b"damaged")
    _, listing = run(tmp_path / "job", PHOTOS, model(url=f"{url}/dark.onnx", sha256=sha256(data)))
    assert listing["masks"] != {}
    assert [path.read_bytes() for path in kept.iterdir()] == [data]


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    """Within its bytes; who took a model keeps it, whatever becomes of the cache."""
    cache = ModelCache(tmp_path / "kept", max_bytes=250)
    models = [np.random.default_rng(seed).bytes(100) for seed in range(3)]
    for age, data in zip((300, 200), models[:2], strict=True):
        fetched = tmp_path / sha256(data)
        fetched.write_bytes(data)
        cache.keep(sha256(data), fetched)
        os.utime(fetched, (fetched.stat().st_mtime - age,) * 2)
    assert cache.take(sha256(models[0]), tmp_path / "mine")  # used now, so the other one is older
    (tmp_path / "third").write_bytes(models[2])
    cache.keep(sha256(models[2]), tmp_path / "third")
    assert {path.name for path in cache.folder.iterdir()} == {sha256(models[0]), sha256(models[2])}
    assert not cache.take(sha256(models[1]), tmp_path / "gone")
    for path in cache.folder.iterdir():
        path.unlink()
    assert (tmp_path / "mine").read_bytes() == models[0]
