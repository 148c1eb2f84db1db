"""Two gateways on one database and one broker: one is frozen in the middle of a transaction, or killed; the other one carries on."""

import itertools
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.demo.receiver import CallerBackend
from deploy.native.mesh import Replica
from shared.storage.minio import MinioStore
from tests.chaos.fault_points import FOLDER_VARIABLE, arm
from tests.chaos.jobs import Webhooks, faults_in_store, is_whole, submit, under_load
from tests.chaos.mesh import ChaosMesh
from tests.support.eventually import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HEARTBEAT_S = 3  # of the gateway that freezes, to its broker; the product's 15 s would make the test wait for the events that it holds
PATIENCE_S = 3.0
KILLS = 6


class InTurn(httpx.HTTPTransport):
    """To one gateway after the other, as what stands before several does; who gets no answer asks again, and another one."""

    def __init__(self, replicas: list[Replica]) -> None:
        super().__init__()
        self._ports = itertools.cycle([replica.health_port for replica in replicas])

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(port=next(self._ports))
        return super().handle_request(request)


@contextmanager
def caller_of(mesh: ChaosMesh, *replicas: Replica) -> Iterator[httpx.Client]:
    headers = {"X-API-Key": mesh.secrets["MESHWORK_API_KEY"]}
    with httpx.Client(transport=InTurn([*replicas]), base_url=mesh.api_url, headers=headers, timeout=PATIENCE_S) as caller:
        yield caller


def is_frozen(replica: Replica) -> bool:
    return psutil.Process(replica.process.pid).status() == psutil.STATUS_STOPPED


@pytest.mark.parametrize(
    "point", [pytest.param("after.claim", id="letting jobs in"), pytest.param("after.rows", id="folding events", marks=pytest.mark.full)]
)
async def test_a_gateway_that_freezes_in_a_transaction_holds_up_nobody(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, store: MinioStore, tmp_path: Path, point: str
) -> None:
    """What it accepted and what the other one accepts is completed meanwhile; when it goes on, it does so, and nothing is told twice."""
    first = mesh.of("gateway")[0]
    impatient = f"{mesh.through(mesh.proxies)['MESHWORK_AMQP_URL']}?heartbeat={HEARTBEAT_S}"
    with (
        mesh.second_gateway(MESHWORK_AMQP_URL=impatient, **{FOLDER_VARIABLE: str(tmp_path)}) as freezing,
        caller_of(mesh, freezing, first) as caller,
    ):
        hook = f"{backend.url}/hook"
        job_ids: list[str] = []
        arm(tmp_path, "gateway", [point], signal.SIGSTOP)
        wait_until(lambda: job_ids.append(submit(caller, hook)) or is_frozen(freezing), timeout_s=60, interval_s=0.5)
        try:
            job_ids += [submit(api, hook) for _ in range(3)]
            for job_id in job_ids:
                is_whole(api, webhooks, job_id)
            assert is_frozen(freezing)
        finally:
            psutil.Process(freezing.process.pid).resume()
        wait_until(freezing.is_ready, timeout_s=60, interval_s=0.2)
        with caller_of(mesh, freezing) as its_caller:
            job_ids.append(submit(its_caller, hook))
    for job_id in job_ids:
        is_whole(api, webhooks, job_id)
        assert await faults_in_store(store, job_id) == []


@pytest.mark.full
async def test_two_gateways_killed_in_turn_under_load_lose_nothing(
    mesh: ChaosMesh, api: httpx.Client, backend: CallerBackend, webhooks: Webhooks, store: MinioStore
) -> None:
    """Whoever asks is served by the one that is there: each job completes, once."""
    first = mesh.of("gateway")[0]
    with mesh.second_gateway() as second, caller_of(mesh, first, second) as caller, under_load(caller, f"{backend.url}/hook") as job_ids:
        for index in itertools.islice(itertools.cycle((0, 1)), KILLS):
            sent = len(job_ids)
            assert mesh.kill("gateway", index)
            wait_until(lambda: len(job_ids) >= sent + 2, timeout_s=60, interval_s=0.1)  # noqa: B023
            wait_until(mesh.of("gateway")[index].is_ready, timeout_s=90, interval_s=0.2)
    for job_id in job_ids:
        is_whole(api, webhooks, job_id)
        assert await faults_in_store(store, job_id) == []
