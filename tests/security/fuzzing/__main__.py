"""`python -m tests.security.fuzzing --requests 100000 --values 100000 [--seed 1] [--processes 2] [--only changed]`

Tries so many requests and values in all, prints how they ended, and returns 1 when something broke a promise. A unit of work that failed
is run again alone with the seed that it is printed with: `--only changed --seed 17 --requests 1000`.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from random import SystemRandom

from tests.security.fuzzing.processes import Unit, found
from tests.security.fuzzing.tally import Tally
from tests.security.fuzzing.values import READERS

SHARES = {"changed": 0.7, "postgresql": 0.1, "raw": 0.15, "documented": 0.05}  # of the requests: schemathesis makes one in the time of five
# Then with a fresh gateway, so that none grows without end.
AT_A_TIME = {"changed": 2000, "postgresql": 2000, "raw": 2000, "documented": 500, "value": 2000}


def main() -> int:
    """The command line."""
    given = _arguments()
    print(f"seed {given.seed}; {given.requests:,} requests, {given.values:,} values, {given.processes} processes", flush=True)
    tally, started, peak = Tally(), time.monotonic(), 0
    units = list(_units(given))
    try:
        for number, (unit, one, seconds, peak_bytes) in enumerate(found(units, given.processes), 1):
            tally.add(one)
            peak = max(peak, peak_bytes)
            faults = "".join(f"\nFAULT {fault}" for fault in one.faults)
            print(f"[{number}/{len(units)}] {unit}: {one.total()} in {seconds:.0f} s, {len(one.faults)} faults{faults}", flush=True)
    finally:  # also when somebody ends it early
        _report(tally, time.monotonic() - started, peak)
    return int(bool(tally.faults))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.security.fuzzing", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--values", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1_000_000))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", help="changed, postgresql, raw, documented, or the name of a reader of values")
    return parser.parse_args()


def _units(given: argparse.Namespace) -> Iterator[Unit]:
    """Each with a seed after the other's; kinds take turns, so that a run that is ended early has seen something of each."""
    weights = sum(reader.weight for reader in READERS.values())
    counts = {kind: given.requests * share for kind, share in SHARES.items()}
    counts |= {name: given.values * reader.weight / weights for name, reader in READERS.items()}
    if given.only:
        counts = {given.only: given.requests if given.only in SHARES else given.values}
    places = []
    for kind, count in counts.items():
        size = AT_A_TIME.get(kind, AT_A_TIME["value"])
        pieces = [size] * int(count // size) + ([round(count % size)] if round(count % size) else [])
        places += [((index + 1) / len(pieces), kind, piece) for index, piece in enumerate(pieces)]
    for number, (_, kind, count) in enumerate(sorted(places, key=lambda place: place[0])):
        yield Unit(kind, given.seed + number, count)


def _report(tally: Tally, seconds: float, peak_bytes: int) -> None:
    print(f"\n{tally.table()}\n\nthe slowest answers:")
    for took, what in tally.slow:
        print(f"{took:.2f} s {what}")
    requests = sum(count for (what, _), count in tally.counts.items() if not what.startswith("value "))
    failed = sum(count for (what, ending), count in tally.counts.items() if ending.startswith("5") and not what.startswith("value "))
    values = tally.total() - requests
    print(f"{requests:,} requests, {failed} answers of 5xx; {values:,} values; {len(tally.faults)} faults; {seconds / 60:.0f} minutes")
    print(f"at most {peak_bytes / 2**20:.0f} MiB in a process", flush=True)


if __name__ == "__main__":
    sys.exit(main())
