"""What every artifact store promises, proved on the folder and on a real S3 server."""

import asyncio
import hashlib
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from shared.errors import ObjectCorrupt, ObjectMissing
from shared.ports import ArtifactStore
from shared.storage.directory import DirectoryStore
from shared.storage.minio import MinioStore

ODD_NAMES = ["with space.jpg", "percent%2F.jpg", "plus+&=?#.jpg", "ümläut-漢字.png", "quote'\"`.txt", "~tilde", "back\\slash", "a" * 255]
BAD_KEYS = ["", "/abs", "a/../b", "..", "a//b", "a/./b", "a/", "nul\0", ".hidden", "x" * 256, "lone\udc80surrogate", "/".join(["ab"] * 400)]


@pytest.fixture(params=["directory", "minio"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, s3_bucket: str) -> AsyncIterator[ArtifactStore]:
    if request.param == "directory":
        store: DirectoryStore | MinioStore = DirectoryStore(tmp_path / "artifacts")
    else:
        server = request.getfixturevalue("s3_server")
        store = MinioStore(server.endpoint, server.access_key, server.secret_key, s3_bucket)
    await store.prepare()
    yield store
    await store.close()


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_what_was_put_is_got(store: ArtifactStore) -> None:
    """An object holds the bytes of its last put, also none."""
    await store.put("jobs/1/request.json", b"{}")
    await store.put("jobs/1/request.json", b'{"n": 1}')
    await store.put("jobs/1/stop", b"")

    assert await store.get("jobs/1/request.json") == b'{"n": 1}'
    assert await store.get("jobs/1/stop") == b""
    assert await store.exists("jobs/1/stop")


async def test_a_key_that_is_not_there_is_told_apart_from_an_outage(store: ArtifactStore, tmp_path: Path) -> None:
    """Every way to read raises ObjectMissing; a folder of keys is no object."""
    await store.put("jobs/1/a/b", b"x")
    reads: list[Callable[[str], Awaitable[object]]] = [
        store.get,
        lambda key: store.download(key, tmp_path / "out"),
        lambda key: store.copy(key, "jobs/2/copy"),
        lambda key: anext(aiter(store.stream(key))),
    ]

    for key in ("jobs/1/nothing", "jobs/none/of/this", "jobs/1/a"):
        assert not await store.exists(key)
        for read in reads:
            with pytest.raises(ObjectMissing):
                await read(key)
    assert not (tmp_path / "out").exists()


async def test_get_holds_no_more_than_its_limit(store: ArtifactStore) -> None:
    """An object that is larger than allowed is refused, one that is exactly as large is not."""
    await store.put("jobs/1/body", b"x" * 100)

    assert len(await store.get("jobs/1/body", max_bytes=100)) == 100
    with pytest.raises(ObjectCorrupt):
        await store.get("jobs/1/body", max_bytes=99)


@pytest.mark.parametrize("size", [0, 1, 5_000_000, 40_000_001], ids=["empty", "byte", "one part", "many parts"])
async def test_files_travel_unchanged(store: ArtifactStore, tmp_path: Path, size: int) -> None:
    """Size and sha256 are those of the file; download makes folders, verifies, and leaves nothing beside the file."""
    data = os.urandom(size)
    source, target = tmp_path / "source", tmp_path / "new" / "folder" / "target"
    source.write_bytes(data)

    stored = await store.upload(source, "jobs/1/01-sfm/x/points.ply", "application/octet-stream")
    size_read = await store.download(stored.key, target, stored.sha256)

    assert (stored.bytes, stored.sha256, size_read) == (size, sha256(data), size)
    assert target.read_bytes() == data
    assert list(target.parent.iterdir()) == [target]


async def test_damage_is_found_and_nothing_is_left(store: ArtifactStore, tmp_path: Path) -> None:
    """A download whose sha256 differs raises ObjectCorrupt with the key, and keeps the file that was there."""
    await store.put("jobs/1/data", b"good")
    target = tmp_path / "out" / "target"
    await store.download("jobs/1/data", target, sha256(b"good"))
    await store.put("jobs/1/data", b"bad!")

    with pytest.raises(ObjectCorrupt) as caught:
        await store.download("jobs/1/data", target, sha256(b"good"))

    assert caught.value.key == "jobs/1/data"
    assert target.read_bytes() == b"good"
    assert list(target.parent.iterdir()) == [target]


@pytest.fixture
def full_disk() -> Iterator[Callable[[], None]]:
    """Makes every file of this process end at 1 MiB, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_here_is_no_outage_there(store: ArtifactStore, tmp_path: Path, full_disk: Callable[[], None]) -> None:
    """What the caller's own disk refuses stays an OSError, and the broken file goes."""
    await store.put("jobs/1/large", b"x" * (3 << 20))
    full_disk()

    with pytest.raises(OSError):
        await store.download("jobs/1/large", tmp_path / "out" / "file")

    assert list((tmp_path / "out").iterdir()) == []


async def test_a_file_that_is_not_there_is_the_callers_mistake(store: ArtifactStore, tmp_path: Path) -> None:
    """Uploading it is a FileNotFoundError, not a missing artifact."""
    with pytest.raises(FileNotFoundError):
        await store.upload(tmp_path / "nothing", "jobs/1/x", "text/plain")
    assert await store.list("jobs/1/") == []


async def test_a_stream_is_stored_and_read_in_pieces(store: ArtifactStore) -> None:
    """Sizes of the pieces do not matter, and a reader may stop early."""
    chunks = [b"", b"a" * 10, os.urandom(3_000_000), b"z"]

    stored = await store.upload_stream(pieces(*chunks), "jobs/1/images/000_a.jpg", "image/jpeg")
    read = [chunk async for chunk in store.stream(stored.key)]
    first = await anext(aiter(store.stream(stored.key)))

    whole = b"".join(chunks)
    assert (stored.bytes, stored.sha256) == (len(whole), sha256(whole))
    assert b"".join(read) == whole
    assert len(read) > 1 and whole.startswith(first)
    assert (await store.upload_stream(pieces(), "jobs/1/none", "text/plain")).bytes == 0


async def test_a_stream_that_breaks_off_leaves_nothing(store: ArtifactStore) -> None:
    """The sender's exception passes through, and there is no half object."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        raise ConnectionResetError("the caller went away")

    with pytest.raises(ConnectionResetError):
        await store.upload_stream(broken(), "jobs/1/half", "image/jpeg")

    assert await store.list("jobs/") == []


async def test_keys_are_listed_by_prefix(store: ArtifactStore) -> None:
    """A prefix is a string, not a folder; the order is that of the keys."""
    for key in ["jobs/1/b", "jobs/1/a/c", "jobs/10/a", "jobs/2/x"]:
        await store.put(key, b"")

    assert list(await store.list("jobs/1")) == ["jobs/1/a/c", "jobs/1/b", "jobs/10/a"]
    assert list(await store.list("jobs/1/")) == ["jobs/1/a/c", "jobs/1/b"]
    assert list(await store.list("jobs/none/")) == []
    assert len(await store.list("")) == 4


async def test_more_keys_than_one_page_are_listed_and_removed(store: ArtifactStore) -> None:
    """S3 lists and removes a thousand at a time; nobody notices."""
    names = [f"jobs/1/{i:04d}" for i in range(1005)]
    await asyncio.gather(*(store.put(name, b"") for name in names))
    await store.put("jobs/2/kept", b"")

    assert list(await store.list("jobs/1/")) == names
    await store.delete([*names, "jobs/1/never-there"])
    assert list(await store.list("jobs/")) == ["jobs/2/kept"]


async def test_a_copy_is_independent(store: ArtifactStore) -> None:
    """Changing or removing the source leaves the copy."""
    await store.put("jobs/1/source", b"original")

    await store.copy("jobs/1/source", "jobs/2/deep/copy")
    await store.put("jobs/1/source", b"changed")
    await store.delete(["jobs/1/source"])

    assert await store.get("jobs/2/deep/copy") == b"original"


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
async def test_odd_names_are_only_names(store: ArtifactStore, tmp_path: Path, name: str) -> None:
    """What people call their photos survives every operation."""
    key = f"jobs/1/images/{name}"
    await store.put(key, name.encode())
    await store.copy(key, f"jobs/2/{name}")

    assert await store.get(key) == name.encode()
    assert list(await store.list("jobs/")) == [key, f"jobs/2/{name}"]
    assert await store.download(f"jobs/2/{name}", tmp_path / "file") == len(name.encode())
    await store.delete([key, f"jobs/2/{name}"])
    assert list(await store.list("jobs/")) == []


@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
async def test_keys_that_lead_elsewhere_are_refused(store: ArtifactStore, tmp_path: Path, key: str) -> None:
    """No operation takes a key that could leave the store, or that only one kind of store could hold."""
    await store.put("good", b"")
    (tmp_path / "file").write_bytes(b"x")
    operations: list[Callable[[], Awaitable[object]]] = [
        lambda: store.put(key, b""),
        lambda: store.get(key),
        lambda: store.exists(key),
        lambda: store.upload(tmp_path / "file", key, "text/plain"),
        lambda: store.upload_stream(pieces(b"x"), key, "text/plain"),
        lambda: store.download(key, tmp_path / "out"),
        lambda: anext(aiter(store.stream(key))),
        lambda: store.copy("good", key),
        lambda: store.copy(key, "other"),
        lambda: store.delete([key]),
    ]

    for operation in operations:
        with pytest.raises(ValueError):
            await operation()
    assert list(await store.list("")) == ["good"]


async def test_readers_see_the_old_bytes_or_the_new_ones(store: ArtifactStore) -> None:
    """An object that is being replaced is never seen half written."""
    old, new = b"o" * 300_000, b"n" * 300_000
    await store.put("jobs/1/manifest.json", old)

    async def replace() -> None:
        for i in range(10):
            await store.put("jobs/1/manifest.json", old if i % 2 else new)

    writing = asyncio.create_task(replace())
    seen = {await store.get("jobs/1/manifest.json")}
    while not writing.done():
        seen.add(await store.get("jobs/1/manifest.json"))
    await writing

    assert seen <= {old, new}


async def test_writers_and_removers_share_a_folder(store: ArtifactStore) -> None:
    """Removing the last object of a folder never breaks a write beside it."""

    async def come_and_go(name: str) -> None:
        for _ in range(15):
            await store.put(f"jobs/1/shared/{name}", b"x")
            await store.delete([f"jobs/1/shared/{name}"])

    await asyncio.gather(*(come_and_go(str(i)) for i in range(6)))

    assert list(await store.list("jobs/")) == []


async def test_a_link_opens_for_anybody_or_there_is_none(store: ArtifactStore) -> None:
    """A presigned link answers with the file's own name and type; a folder has no links."""
    await store.put("jobs/1/06-export/x/model.glb", b"glTF")
    link = await store.presign("jobs/1/06-export/x/model.glb", timedelta(days=30), 'mödel "1".glb', "model/gltf-binary")

    if isinstance(store, DirectoryStore):
        assert link is None
        return
    assert link is not None
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(link)
        widened = await client.get(link.replace("X-Amz-Expires=", "X-Amz-Expires=1"))
    assert (answer.status_code, answer.content) == (200, b"glTF")
    assert answer.headers["content-type"] == "model/gltf-binary"
    assert answer.headers["content-disposition"] == "attachment; filename=\"m_del _1_.glb\"; filename*=UTF-8''m%C3%B6del%20%221%22.glb"
    assert widened.status_code in {400, 403}


async def test_a_ready_store_answers(store: ArtifactStore) -> None:
    """Readiness is a ping."""
    await store.ping()
