"""What a store says when it is away, and what it does to a bucket at start."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from minio.commonconfig import ENABLED, Filter
from minio.error import S3Error
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule

from shared.errors import DependencyUnavailable
from shared.storage.directory import DirectoryStore
from shared.storage.lifecycle import days_kept
from shared.storage.minio import MinioStore
from tests.support.servers import S3Server


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_a_server_that_is_away_is_an_outage(tmp_path: Path) -> None:
    """Every method raises DependencyUnavailable, within seconds."""
    store = MinioStore(f"http://127.0.0.1:{closed_port()}", "key", "secret", "bucket")
    (tmp_path / "file").write_bytes(b"x")
    calls: list[Callable[[], Awaitable[object]]] = [
        store.prepare,
        store.ping,
        lambda: store.put("a", b""),
        lambda: store.get("a"),
        lambda: store.exists("a"),
        lambda: store.upload(tmp_path / "file", "a", "text/plain"),
        lambda: store.download("a", tmp_path / "out"),
        lambda: anext(aiter(store.stream("a"))),
        lambda: store.copy("a", "b"),
        lambda: store.list("a"),
        lambda: store.delete(["a"]),
    ]

    for call in calls:
        began = time.monotonic()
        with pytest.raises(DependencyUnavailable):
            await call()
        assert time.monotonic() - began < 10
    await store.close()


async def test_wrong_credentials_and_a_missing_bucket_are_outages(s3_server: S3Server, s3_bucket: str) -> None:
    """An operator's mistake shows in readiness, and no job is failed for it."""
    wrong = MinioStore(s3_server.endpoint, s3_server.access_key, "wrong-secret", s3_bucket)
    missing = MinioStore(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, s3_bucket)

    for store in (wrong, missing):
        with pytest.raises(DependencyUnavailable):
            await store.ping()
        with pytest.raises(DependencyUnavailable):
            await store.put("a", b"")
        with pytest.raises(DependencyUnavailable):
            await store.get("a")
        await store.close()


async def test_links_are_signed_for_the_public_endpoint_without_asking_it() -> None:
    """The internal endpoint never appears in a link, and making one needs no network."""
    port = closed_port()
    store = MinioStore(f"http://127.0.0.1:{port}", "key", "secret", "bucket", public_endpoint="https://files.example.org")

    link = await store.presign("jobs/1/model.glb", timedelta(hours=1), "model.glb", "model/gltf-binary")

    assert link is not None
    assert link.startswith("https://files.example.org/bucket/jobs/1/model.glb?")
    assert str(port) not in link and "X-Amz-Expires=3600" in link
    await store.close()


async def test_the_bucket_expires_old_jobs_and_keeps_other_rules(s3_server: S3Server, s3_bucket: str) -> None:
    """Preparing twice is harmless; the rule lies a week after the retention; rules of the operator stay."""
    store = MinioStore(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, s3_bucket)
    await store.prepare()
    theirs = Rule(ENABLED, rule_filter=Filter(prefix="backups/"), rule_id="theirs", expiration=Expiration(days=3))
    store._client.set_bucket_lifecycle(s3_bucket, LifecycleConfig([theirs]))

    await store.prepare(timedelta(days=30))
    await store.prepare(timedelta(days=10))

    config = store._client.get_bucket_lifecycle(s3_bucket)
    assert days_kept(store._client, s3_bucket) == 17
    assert config is not None and sorted(rule.rule_id or "" for rule in config.rules) == ["meshwork-retention", "theirs"]
    await store.close()


async def test_a_folder_that_is_gone_or_read_only_is_an_outage(tmp_path: Path) -> None:
    """Reads of what is not there stay ObjectMissing; ping and writes say that the folder is away."""
    (tmp_path / "file").write_bytes(b"not a folder")
    store = DirectoryStore(tmp_path / "file" / "artifacts")

    with pytest.raises(DependencyUnavailable):
        await store.prepare()
    with pytest.raises(DependencyUnavailable):
        await store.ping()
    with pytest.raises(DependencyUnavailable):
        await store.put("jobs/1/a", b"")


async def test_what_a_killed_writer_left_is_removed_at_start(tmp_path: Path) -> None:
    """Temporary files never become objects, and do not pile up."""
    left = tmp_path / "artifacts" / ".incoming" / ".0123.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    store = DirectoryStore(tmp_path / "artifacts")

    assert list(await store.list("")) == []
    await store.prepare()
    assert not left.exists()


async def test_what_a_killed_process_left_on_its_way_is_removed_at_start(s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> None:
    """Uploads wait for their bytes in a folder of their process's own; whoever starts removes those of processes that are gone."""
    given, more = asyncio.Event(), asyncio.Event()

    async def slow_chunks() -> AsyncIterator[bytes]:
        yield bytes(2 << 20)
        given.set()
        await more.wait()

    alive, killed, newcomer = [
        MinioStore(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, s3_bucket, work_dir=tmp_path) for _ in range(3)
    ]
    await alive.prepare()
    await killed.upload_stream(pieces(b"x"), "jobs/0/images/a.jpg", "image/jpeg")
    (killed._uploads.path / ".half.part").write_bytes(b"half")
    assert killed._uploads._lock is not None
    killed._uploads._lock.close()  # what the kernel does for a process that was killed
    upload = asyncio.create_task(alive.upload_stream(slow_chunks(), "jobs/1/images/a.jpg", "image/jpeg"))
    await given.wait()

    await newcomer.prepare()

    assert names_in(tmp_path) == {alive._uploads.path.name}
    more.set()
    assert (await upload).bytes == 2 << 20
    for store in (alive, newcomer):
        await store.close()
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize(("refusals", "calls", "written"), [(2, 3, True), (99, 5, False)])
async def test_a_write_refused_beside_a_removal_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, refusals: int, calls: int, written: bool
) -> None:
    """MinIO refuses one now and then; a store that always refuses is an outage after five tries."""
    store, made = MinioStore("http://127.0.0.1:1", "key", "secret", "bucket"), []

    def put_object(*args: object, **kwargs: object) -> None:
        made.append(args)
        if len(made) <= refusals:
            raise S3Error(None, "AccessDenied", "Access Denied.", "/a", "", "")  # type: ignore[arg-type]

    monkeypatch.setattr(store._client, "put_object", put_object)
    if written:
        await store.put("a", b"x")
    else:
        with pytest.raises(DependencyUnavailable, match="AccessDenied"):
            await store.put("a", b"x")
    assert len(made) == calls
    await store.close()
