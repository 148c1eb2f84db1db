"""Jobs that hang in the middle of a stage, for as long as a test needs."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import psutil

from deploy.native.mesh import Replica
from tests.chaos.fault_points import HANG
from tests.chaos.jobs import status_of, submit
from tests.chaos.mesh import ChaosMesh
from tests.chaos.stand_ins import Mvs
from tests.support.eventually import wait_until
from tests.support.liveness import is_running

PART = "a part"  # in place of a stage


@contextmanager
def hanging_child(replica: Replica) -> Iterator[psutil.Process]:
    """A ready worker's child, which does not compute until it is resumed."""
    wait_until(replica.is_ready, timeout_s=60, interval_s=0.1)
    wait_until(lambda: replica.process.pid and psutil.Process(replica.process.pid).children(), timeout_s=30)
    (child,) = psutil.Process(replica.process.pid).children()
    child.suspend()
    try:
        yield child
    finally:
        with suppress(psutil.NoSuchProcess):
            child.resume()


@contextmanager
def hanging_in_part(mesh: ChaosMesh, api: httpx.Client, hook: str) -> Iterator[tuple[str, psutil.Process]]:
    """A job, and the child that hangs on a part of one of its steps; both go on afterwards."""
    (replica,) = mesh.of(Mvs.name)
    mesh.arm(Mvs.name, HANG)
    job_id = submit(api, hook)
    (child,) = wait_until(lambda: stopped_children(replica), timeout_s=60, interval_s=0.1)
    try:
        yield job_id, child
    finally:
        with suppress(psutil.NoSuchProcess):
            child.resume()


def stopped_children(replica: Replica) -> list[psutil.Process]:
    """Those of a worker that hang."""
    if replica.process.pid is None:
        return []
    return [child for child in psutil.Process(replica.process.pid).children() if child.status() == psutil.STATUS_STOPPED]


@contextmanager
def hanging_in(mesh: ChaosMesh, api: httpx.Client, hook: str, stage: str) -> Iterator[tuple[str, psutil.Process]]:
    """A job, and the child that hangs on it in a stage, or in a part; both go on afterwards."""
    if stage == PART:
        with hanging_in_part(mesh, api, hook) as hanging:
            yield hanging
        return
    (replica,) = mesh.of(stage)
    with hanging_child(replica) as child:
        job_id = submit(api, hook)
        wait_until(lambda: status_of(api, job_id, stage) == "processing", timeout_s=60, interval_s=0.1)
        yield job_id, child


@contextmanager
def computing(mesh: ChaosMesh, api: httpx.Client, hook: str, stage: str) -> Iterator[str]:
    """A job that hangs in a stage. Its worker ends the child that hangs before the context does."""
    with hanging_in(mesh, api, hook, stage) as (job_id, child):
        yield job_id
        wait_until(lambda: not is_running(child.pid), timeout_s=90)  # a gateway may be killed meanwhile
