"""Units of work in several processes of ours, which share nothing."""

import asyncio
import contextlib
import multiprocessing
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from shared.batches import batches_of
from tests.security.fuzzing.changed_requests import try_changed, try_on_postgresql
from tests.security.fuzzing.documented_requests import try_documented
from tests.security.fuzzing.raw_requests import try_raw
from tests.security.fuzzing.tally import Tally
from tests.security.fuzzing.values import READERS, try_reader
from tests.support.scratch import scratch_folder
from tests.support.servers import postgres

UNITS_PER_PROCESS = 10


@dataclass(frozen=True)
class Unit:
    """Some work with a seed of its own."""

    kind: str
    seed: int
    count: int

    def __str__(self) -> str:
        return f"{self.kind}, seed {self.seed}, {self.count}"


def found(units: Sequence[Unit], processes: int) -> Iterator[tuple[Unit, Tally, float, int]]:
    """What came of each, with its seconds and the most memory that its process ever held."""
    needs_postgres = any(unit.kind == "postgresql" for unit in units)
    with scratch_folder("fuzzing") as folder, postgres() if needs_postgres else contextlib.nullcontext("") as server_url:
        for batch in batches_of(units, UNITS_PER_PROCESS * processes):
            waiting = deque(batch)
            while waiting:
                yield from _in_fresh_processes(waiting, processes, folder, server_url)


def _in_fresh_processes(waiting: deque[Unit], processes: int, folder: str, server_url: str) -> Iterator[tuple[Unit, Tally, float, int]]:
    """Until none waits, or a process ended: that is a fault of the units that were under way then."""
    under_way: dict[Future[tuple[Unit, Tally, float, int]], Unit] = {}
    broken = False
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin, (folder,)) as pool:
        while under_way or (waiting and not broken):
            while waiting and not broken and len(under_way) < processes:
                unit = waiting.popleft()
                under_way[pool.submit(_run, unit, server_url)] = unit
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                unit = under_way.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool as error:
                    broken = True
                    yield unit, Tally(faults=[f"{unit}, or what ran beside it: {error}"]), 0.0, 0


def _begin(folder: str) -> None:
    tempfile.tempdir = folder
    logger.remove()


def _run(unit: Unit, server_url: str) -> tuple[Unit, Tally, float, int]:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            tally = _work_of(unit.kind, server_url)(unit.seed, unit.count, Path(folder))
        except Exception as error:
            tally = Tally(faults=[f"{unit}: {error!r}"])
    return unit, tally, time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _work_of(kind: str, server_url: str) -> Callable[[int, int, Path], Tally]:
    if kind == "changed":
        return lambda seed, count, folder: asyncio.run(try_changed(seed, count, folder))
    if kind == "postgresql":
        return lambda seed, count, folder: asyncio.run(try_on_postgresql(seed, count, folder, server_url))
    if kind == "raw":
        return lambda seed, count, folder: asyncio.run(try_raw(seed, count, folder))
    if kind == "documented":
        return try_documented
    return lambda seed, count, folder: try_reader(READERS[kind], seed, count)
