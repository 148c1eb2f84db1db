"""Disks that are full, a worker's, the store's, the broker's: jobs wait, nothing is damaged, and with room again all complete."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deploy.demo.receiver import CallerBackend
from deploy.native.mesh import Replica
from shared.errors import DependencyUnavailable
from shared.storage.minio import MinioStore
from tests.chaos.hanging import hanging_in
from tests.chaos.jobs import Webhooks, attempts_of, faults_in_store, is_whole, patiently, status_of, submit
from tests.chaos.mesh import ChaosMesh, lacks
from tests.support.eventually import eventually, wait_until
from tests.support.small_disk import SmallDisk, small_disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGE = "sfm"
DISK_BYTES = 160 << 20


@contextmanager
def working_on(mesh: ChaosMesh, folder: Path) -> Iterator[Replica]:
    """The stage's only worker, with its workspaces in this folder."""
    mesh.scale(STAGE, 0)
    worker = mesh.add(STAGE, MESHWORK_WORK_DIR=str(folder))
    wait_until(worker.is_ready, timeout_s=60, interval_s=0.2)
    try:
        yield worker
    finally:
        mesh.renew(STAGE)


async def test_a_workers_full_disk_is_waited_for(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, store: MinioStore, tmp_path: Path
) -> None:
    """Full before the work: held, uncounted, readiness names the disk. Full during it: one counted try more, and the log says why."""
    hook = f"{backend.url}/hook"
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk, working_on(mesh, disk.folder) as worker:
        disk.fill()
        wait_until(lambda: lacks(worker) == ["disk"], timeout_s=30, interval_s=0.2)
        waiting = submit(api, hook)
        wait_until(lambda: status_of(api, waiting, STAGE) == "processing", timeout_s=60, interval_s=0.2)
        disk.empty()
        is_whole(api, webhooks, waiting)

        with hanging_in(mesh, api, hook, STAGE) as (interrupted, _):
            disk.fill()
        wait_until(lambda: "filled up" in worker.process.tail(300), timeout_s=60, interval_s=0.2)
        disk.empty()
        is_whole(api, webhooks, interrupted)

    assert (attempts_of(api, waiting, STAGE), attempts_of(api, interrupted, STAGE)) == (1, 2)
    assert await faults_in_store(store, waiting) + await faults_in_store(store, interrupted) == []


@contextmanager
def on_a_small_disk(mesh: ChaosMesh) -> Iterator[SmallDisk]:
    """The store with an empty small disk in place of its own, which is back afterwards."""
    try:
        with small_disk(mesh.minio.folder / "data", DISK_BYTES) as disk:
            mesh.minio.kill()  # `watch` starts it again
            yield disk
    finally:
        mesh.minio.kill()


async def has_bucket(store: MinioStore) -> bool:
    """Once the store answers."""
    try:
        await store.prepare()
    except DependencyUnavailable:
        return False
    return True


async def test_a_full_store_is_waited_for(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, store: MinioStore
) -> None:
    """A step that is computed keeps its outputs until they are stored; what is sent meanwhile is accepted, and begins with room again."""
    hook = f"{backend.url}/hook"
    with on_a_small_disk(mesh) as disk:
        await eventually(lambda: has_bucket(store), 60, 0.2)
        wait_until(mesh.is_ready, timeout_s=60, interval_s=0.2)
        with hanging_in(mesh, api, hook, STAGE) as (computed, _):
            disk.fill()
        wait_until(lambda: "the store refuses" in mesh.of(STAGE)[0].process.tail(300), timeout_s=60, interval_s=0.2)
        sent_meanwhile = submit(api, hook)
        statuses = [patiently(api, "GET", f"/api/v1/jobs/{job_id}").json()["status"] for job_id in (computed, sent_meanwhile)]
        disk.empty()
        for job_id in (computed, sent_meanwhile):
            is_whole(api, webhooks, job_id)
            assert await faults_in_store(store, job_id) == []
    assert statuses == ["processing", "queued"]
    assert attempts_of(api, computed, STAGE) == 1


async def test_a_broker_without_room_is_waited_for(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, store: MinioStore
) -> None:
    """It takes no publication: a step that is computed is handed on, and what is sent meanwhile begins, when there is room."""
    hook = f"{backend.url}/hook"
    (worker,) = mesh.of(STAGE)
    try:
        with hanging_in(mesh, api, hook, STAGE) as (computed, _):
            mesh.rabbitmq.limit_free_disk("1000000GB")
            wait_until(lambda: mesh.rabbitmq.management.call("GET", "nodes")[0]["disk_free_alarm"], timeout_s=60, interval_s=0.5)
        wait_until(lambda: lacks(worker) == ["broker"], timeout_s=60, interval_s=0.2)
        sent_meanwhile = submit(api, hook)
        statuses = [patiently(api, "GET", f"/api/v1/jobs/{job_id}").json()["status"] for job_id in (computed, sent_meanwhile)]
    finally:
        mesh.rabbitmq.limit_free_disk("200MB")
    for job_id in (computed, sent_meanwhile):
        is_whole(api, webhooks, job_id)
        assert await faults_in_store(store, job_id) == []
    assert statuses == ["processing", "queued"]
    assert attempts_of(api, computed, STAGE) == 1
