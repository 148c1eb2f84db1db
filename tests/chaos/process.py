"""One process of the mesh with fault points, stages replaced by stand-ins: `python -m tests.chaos.process sfm`."""

import functools
import os
import sys
from datetime import timedelta
from pathlib import Path

from shared.contracts.routing import STAGES
from tests.chaos.fault_points import FOLDER_VARIABLE, FaultPoints

NEXT_VARIABLE = "CHAOS_NEXT_VERSION"  # set: a worker of tomorrow, whose messages those of today cannot read
RETRY_DELAYS_S = (10.0, 10.0)  # before a second and a third try; the product's minute would make tests of failures wait
LEASE = timedelta(seconds=5)  # of outbox rows; the product's 90 s would make tests of killed gateways wait
SILENCE = timedelta(seconds=6)  # after which PostgreSQL ends a transaction; the product's 30 s would make tests of frozen gateways wait


def main() -> None:
    """Runs until it is ended, one way or another."""
    service = sys.argv.pop(1)
    points = FaultPoints(Path(os.environ[FOLDER_VARIABLE]), service)
    points.install()
    if os.environ.get(NEXT_VARIABLE):
        speak_the_next_version()
    if service in STAGES:
        from shared.runtime import turn
        from shared.runtime.entrypoint import main as run_stage

        points.install_in_worker()
        turn.RETRY_DELAYS_S = RETRY_DELAYS_S
        run_stage(f"tests.chaos.stand_ins:{service.capitalize()}")
    elif service == "webhooks":
        from services.webhooks.process import main as run_webhooks

        points.install_in_webhooks()
        run_webhooks()
    else:
        import gateway.__main__
        import gateway.app

        points.install_in_gateway()
        gateway.app.RelaySettings = functools.partial(gateway.app.RelaySettings, lease=LEASE)  # type: ignore[misc, assignment]
        gateway.__main__.create_engine = functools.partial(gateway.__main__.create_engine, silence=SILENCE)
        gateway.__main__.main()


def speak_the_next_version() -> None:
    """Reads and writes messages of a schema version that is yet to come."""
    from shared.contracts import messages
    from shared.runtime import reading

    messages.SCHEMA_VERSION = reading.SPLIT_VERSION = reading.SPLIT_VERSION + 1  # type: ignore[assignment]


if __name__ == "__main__":
    main()
