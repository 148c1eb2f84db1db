"""`python -m services.<stage>`: the worker, or one run of the stage by hand on a folder.

python -m services.sfm                                     a worker, configured by MESHWORK_… variables
python -m services.sfm run FOLDER --params '{"…": …}'      computes FOLDER/inputs -> FOLDER/outputs, prints the report as JSON
"""

import argparse
import asyncio
import json
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from shared.errors import DependencyUnavailable, PermanentError, TransientError
from shared.ports import Broker
from shared.runtime.health import HealthServer
from shared.runtime.logging import configure
from shared.runtime.settings import WorkerSettings
from shared.runtime.watchdog import LoopWatchdog

if TYPE_CHECKING:
    from shared.runtime.child import ChildCompute
    from shared.runtime.worker import StageWorker
    from shared.storage.minio import MinioStore

EXIT_STAGE_FAILED = 1
EXIT_WORKER_FAILED = 1
_STORE_PAUSE_S = 3.0


def main(target: str) -> None:
    """Runs the stage `module:Class` as the command line says."""
    parser = argparse.ArgumentParser(prog=f"python -m {target.partition(':')[0].rpartition('.')[0]}", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="verb")
    by_hand = verbs.add_parser("run", help="run the stage once on a folder, without broker and store")
    by_hand.add_argument("folder", type=Path, help="a workspace: request.json, inputs/<stage>/…; results go to outputs/")
    by_hand.add_argument("--params", type=json.loads, default={}, help="the stage's params as JSON")
    by_hand.add_argument("--reduction", type=int, default=0, help="1: as after running out of memory")
    arguments = parser.parse_args()
    if arguments.verb == "run":
        sys.exit(run_by_hand(target, arguments.folder, arguments.params, arguments.reduction))
    try:
        asyncio.run(run_worker(target, WorkerSettings()))
    except Exception:
        logger.exception("the worker ended")  # through the log, where secrets are redacted
        sys.exit(EXIT_WORKER_FAILED)


def run_by_hand(target: str, folder: Path, params: dict[str, object], reduction: int = 0) -> int:
    """Runs the stage in this process, where a debugger and a profiler reach it."""
    from rich.console import Console  # not needed by a worker
    from rich.progress import Progress

    from shared.runtime.child_main import load_stage
    from shared.runtime.workspace import Workspace

    stage = load_stage(target)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(stage.name, total=1.0)

        def show(fraction: float, message: str) -> None:
            bar.update(task, completed=fraction, description=f"{stage.name}: {message}")

        try:
            report = stage.run(Workspace(folder, show, reduction), stage.Params.model_validate(params))
        except (PermanentError, TransientError) as error:
            hint = error.hint if isinstance(error, PermanentError) else "It may pass: try again."
            sys.stderr.write(f"{error.code}: {error}\n{hint}\n")
            return EXIT_STAGE_FAILED
    sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    return 0


async def run_worker(target: str, settings: WorkerSettings) -> None:
    """The composition root of a worker process: RabbitMQ, an S3 bucket, one stage. Returns after SIGTERM or SIGINT."""
    from shared.broker.rabbitmq import RabbitBroker  # the embedded mode and `run` do without
    from shared.runtime.child import ChildCompute
    from shared.runtime.worker import StageWorker
    from shared.storage.minio import MinioStore

    configure(settings.log_level, settings.log_json, service="worker")
    leaving = _leaving_on_signals()
    compute = ChildCompute(target, settings)
    name = await _name_of_stage(compute, leaving)
    if name is None:
        return
    configure(settings.log_level, settings.log_json, service=name)
    broker = RabbitBroker(settings.amqp_url.get_secret_value(), f"{name}@{socket.gethostname()}")
    store = MinioStore.of(settings)
    worker = StageWorker(target, name, broker, store, settings, compute)
    health = HealthServer(settings.health_port, worker.ready, settings.health_host)
    watchdog = LoopWatchdog(name, settings.blocked_loop_warn_s, settings.blocked_loop_exit_s)
    watchdog.start(asyncio.get_running_loop())
    await health.start()  # before broker and store: a worker that waits for them is alive, and says what it waits for
    serving = asyncio.create_task(_serve(worker, broker, store))
    gone = asyncio.create_task(leaving.wait())
    try:
        await asyncio.wait({serving, gone}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            await gone
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await worker.stop()
        await broker.close()
        await store.close()
        await health.stop()
        watchdog.stop()


async def _name_of_stage(compute: "ChildCompute", leaving: asyncio.Event) -> str | None:
    """Starts the child, which may import for a while; None when the process must go meanwhile."""
    describing, gone = asyncio.create_task(compute.describe()), asyncio.create_task(leaving.wait())
    try:
        await asyncio.wait({describing, gone}, return_when=asyncio.FIRST_COMPLETED)
        return describing.result().name if describing.done() else None
    finally:
        describing.cancel()
        gone.cancel()
        await asyncio.gather(describing, gone, return_exceptions=True)


async def _serve(worker: "StageWorker", broker: Broker, store: "MinioStore") -> None:
    """Waits for servers that are late, then takes deliveries."""
    await broker.connect()
    while True:
        try:
            await store.prepare()
            break
        except DependencyUnavailable as error:
            logger.warning("waiting for the store: {}", error)
            await asyncio.sleep(_STORE_PAUSE_S)
    await worker.start()


def _leaving_on_signals() -> asyncio.Event:
    leaving = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leaving.set)
    return leaving
