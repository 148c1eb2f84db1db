"""python -m tests.benchmarks.load gateway --rate 500 --jobs 10000 [--against FOLDER]
python -m tests.benchmarks.load stages --jobs 10000
"""

import argparse
import sys
from pathlib import Path

from deploy.native.mesh import ROOT
from shared.contracts.routing import STAGES
from tests.benchmarks.load import many_jobs
from tests.benchmarks.load.gateway_rate import load_average, rows_of, table


def gateway(asked: argparse.Namespace) -> int:
    """Prints a row as soon as it is measured, the table at the end."""
    codes = ([("before", asked.against)] if asked.against else []) + [("now", ROOT)]
    rows = []
    for name, code in codes:
        for row in rows_of(name, code, asked.gateways, asked.rate, asked.jobs, asked.queued, asked.connections):
            rows.append(row)
            print(row, f"load {load_average()}", flush=True)
    print(table(rows))
    return 0


def stages(asked: argparse.Namespace) -> int:
    """Prints the tables; 1 where a job was lost or a process grew."""
    return int(bool(many_jobs.run(asked.jobs, dict.fromkeys(STAGES, asked.replicas), asked.limit_s)))


def main() -> int:
    """One benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    rate = verbs.add_parser("gateway", help="accepted jobs a second, and how long each waits for its answer")
    rate.add_argument("--rate", type=float, default=500.0, help="requests a second")
    rate.add_argument("--jobs", type=int, default=10_000, help="of each row")
    rate.add_argument("--queued", type=int, default=10_000, help="jobs waiting in the second half")
    rate.add_argument("--connections", type=int, default=64)
    rate.add_argument("--gateways", type=int, default=1, help="replicas")
    rate.add_argument("--against", type=Path, help="a checkout of other code, measured first")
    rate.set_defaults(run=gateway)
    through = verbs.add_parser("stages", help="many jobs of stand-ins through six stages")
    through.add_argument("--jobs", type=int, default=10_000)
    through.add_argument("--replicas", type=int, default=1, help="of each stage")
    through.add_argument("--limit-s", type=float, default=7200.0)
    through.set_defaults(run=stages)
    asked = parser.parse_args()
    return int(asked.run(asked))


if __name__ == "__main__":
    sys.exit(main())
