"""An upgrade while jobs run: two versions on the same queues for a while, then everything begun anew, one process after another."""

import httpx
import pytest

from deploy.demo.receiver import CallerBackend
from shared.contracts.manifest import Manifest
from shared.contracts.routing import STAGES
from shared.storage import keys
from shared.storage.minio import MinioStore
from tests.chaos.jobs import Webhooks, faults_in_store, is_whole, under_load, unfinished
from tests.chaos.mesh import ChaosMesh
from tests.chaos.process import NEXT_VARIABLE
from tests.support.eventually import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.full, pytest.mark.timeout(900)]

NEXT = {NEXT_VARIABLE: "1", "STAND_IN_VERSION": "stand-in of the next version"}
SIDE_BY_SIDE = 20  # jobs


def times_put_back(mesh: ChaosMesh) -> int:
    """How often a worker left a message to a newer one."""
    return sum(log.read_text(errors="replace").count("delivery settled: newer") for log in (mesh.folder / "logs").iterdir())


async def versions(store: MinioStore, job_ids: list[str]) -> set[str]:
    """Of the workers whose outputs the jobs are made of."""
    steps = [keys.step_manifest(job_id, position, stage) for job_id in job_ids for position, stage in enumerate(STAGES)]
    return {Manifest.model_validate_json(await store.get(key)).stage_version for key in steps}


async def test_an_upgrade_under_load_loses_nothing(
    mesh: ChaosMesh,
    api: httpx.Client,
    backend: CallerBackend,
    webhooks: Webhooks,
    store: MinioStore,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Workers first, the gateway last, then the servers: what older workers cannot read waits for newer ones; every job completes, once."""
    parked = await mesh.parked()
    old = [replica for stage in STAGES for replica in mesh.of(stage)]
    with under_load(api, f"{backend.url}/hook") as job_ids:
        with mesh.back_soon("1m"):  # what an older worker cannot read
            for stage in STAGES:
                mesh.add(stage, **NEXT)
            wait_until(mesh.is_ready, timeout_s=120, interval_s=0.5)
            already = len(job_ids)
            wait_until(lambda: len(job_ids) >= already + SIDE_BY_SIDE, timeout_s=120, interval_s=0.5)
            for replica in old:
                mesh.begin_anew(replica, **NEXT)
        for replica in (*mesh.of("webhooks"), *mesh.of("gateway")):
            mesh.begin_anew(replica)
        for server in mesh.servers():
            server.stop()  # `watch` starts it again
            wait_until(lambda: all(each.running for each in mesh.servers()) and mesh.is_ready(), timeout_s=240, interval_s=0.5)
    wait_until(lambda: not unfinished(api, job_ids), timeout_s=180, interval_s=1)
    for job_id in job_ids:
        is_whole(api, webhooks, job_id)
        assert await faults_in_store(store, job_id) == []

    assert times_put_back(mesh) > 0
    assert await versions(store, job_ids) == {"stand-in", NEXT["STAND_IN_VERSION"]}
    assert await mesh.parked() == parked
    for stage in STAGES:
        mesh.renew(stage)
    wait_until(mesh.is_ready, timeout_s=120, interval_s=0.5)
    with capsys.disabled():
        print(f"\n{len(job_ids)} jobs, {times_put_back(mesh)} messages put back by older workers")
