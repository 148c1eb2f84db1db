"""Units of work in several processes of ours, which share nothing."""

import asyncio
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from tests.security.fuzzing.changed_requests import try_changed
from tests.security.fuzzing.documented_requests import try_documented
from tests.security.fuzzing.raw_requests import try_raw
from tests.security.fuzzing.tally import Tally
from tests.security.fuzzing.values import READERS, try_reader

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
    context = multiprocessing.get_context("spawn")
    with _scratch() as folder, context.Pool(processes, _begin, (folder,), maxtasksperchild=UNITS_PER_PROCESS) as pool:
        yield from pool.imap_unordered(_run, units)


def _scratch() -> tempfile.TemporaryDirectory[str]:
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="meshwork-fuzzing-", dir=memory if memory.is_dir() else None)


def _begin(folder: str) -> None:
    tempfile.tempdir = folder
    logger.remove()


def _run(unit: Unit) -> tuple[Unit, Tally, float, int]:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            tally = _work_of(unit.kind)(unit.seed, unit.count, Path(folder))
        except Exception as error:
            tally = Tally(faults=[f"{unit}: {error!r}"])
    return unit, tally, time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _work_of(kind: str) -> Callable[[int, int, Path], Tally]:
    if kind == "changed":
        return lambda seed, count, folder: asyncio.run(try_changed(seed, count, folder))
    if kind == "raw":
        return lambda seed, count, folder: asyncio.run(try_raw(seed, count, folder))
    if kind == "documented":
        return try_documented
    return lambda seed, count, folder: try_reader(READERS[kind], seed, count)
