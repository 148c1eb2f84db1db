"""Runs in several processes of ours, which share nothing."""

import gc
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence

from tests.simulation.mutants import broken
from tests.simulation.plan import Plan
from tests.simulation.scenario import Outcome, run
from tests.support.scratch import scratch_folder

_CHUNK = 20  # seeds that a process takes at a time; of a mutant one, as the first that fails is the last
_SEEDS_PER_PROCESS = 100  # what is killed stays in memory until its process ends


def outcomes(seeds: Sequence[int], mutant: str | None, processes: int) -> Iterator[Outcome]:
    """One for each seed, in order. Every process is forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    chunk = _CHUNK if mutant is None else 1
    with (
        scratch_folder("simulation") as folder,
        context.Pool(processes, _begin, (folder,), maxtasksperchild=_SEEDS_PER_PROCESS // chunk) as pool,
    ):
        yield from pool.imap(_outcome, ((seed, mutant) for seed in seeds), chunksize=chunk)


def _begin(folder: str) -> None:
    tempfile.tempdir = folder
    gc.disable()


def _outcome(given: tuple[int, str | None]) -> Outcome:
    seed, mutant = given
    with broken(mutant):
        return run(Plan.of(seed))
