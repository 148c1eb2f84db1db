"""Named places where a process of the mesh kills itself: before and after everything that it does to the outside.

The product knows nothing of them: they are wrapped around its adapters when a process is started by `tests.chaos.process`. A point is
armed by a file `<folder>/<service>/<before|after>.<point>`; the process that reaches it removes the file, writes a line to
`<folder>/killed.log`, and dies by SIGKILL, or freezes where the file names SIGSTOP.
"""

import functools
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from shared.ports import Publication
from shared.runtime.telling import STAGE_MESSAGE
from shared.storage import keys

FOLDER_VARIABLE = "CHAOS_FAULTS"
HANG = "hang"  # armed like a point: the stage's child hangs at its next part
COMPUTE = {"run": "compute", "split": "split.compute", "run_part": "part.compute", "join": "join.compute"}  # by what the child is asked

# A worker's loop, in the order of the loop.
WORKER = ("receive", "stage.started", "download", "compute", "upload", "attempt", "commit", "stage.work", "stage.completed", "ack")
# What is there only where a step is divided: of the message of the step, of those of its parts, of what follows a round. `claim` is the one
# place where the worker loop claims anything: a part that found none missing says that it publishes what follows.
PARTED = (
    "split.compute",
    "split",
    "part.work",
    "part.download",
    "part.compute",
    "part.upload",
    "part",
    "claim",
    "gather.work",
    "follows",
    "join.compute",
)
# How a worker settles a task that fails: once, each time, for good.
RETRY, DEAD, FAILED = "retry", "dead", "stage.failed"
# The relay: lease rows, write request.json, publish, mark as sent; the tracker: receive, manifests, rows, commit, ack; an ending's webhook.
GATEWAY = ("claim", "request", "stage.work", "mark", "receive", "manifest", "rows", "fold", "ack", "body", "webhook.work")
# The relay at the end of a job: one that is cancelled or fails, one that is deleted.
STOP = ("stop",)
PURGE = ("purge", "deleted")
WEBHOOKS = ("receive", "read", "call", "webhook.attempted", "retry", "ack")

Method = Callable[..., Awaitable[Any]]


def arm(folder: Path, service: str, points: Iterable[str], by: signal.Signals = signal.SIGKILL) -> None:
    """The next process of the service with this folder that reaches one of these points ends, or stops, there; once for each."""
    (folder / service).mkdir(exist_ok=True)
    for point in points:
        unseen = folder / f"{point}.new"
        unseen.write_text(by.name)
        unseen.rename(folder / service / point)


def both(points: tuple[str, ...]) -> list[str]:
    """Before and after each."""
    return [f"{side}.{point}" for point in points for side in ("before", "after")]


class FaultPoints:
    """Those of one process."""

    def __init__(self, folder: Path, service: str) -> None:
        self._folder = folder
        self._service = service

    def reached(self, point: str) -> None:
        """Ends the process, or stops it, where the point is armed."""
        armed = self._folder / self._service / point
        try:
            by = signal.Signals[armed.read_text()]
            armed.unlink()
        except FileNotFoundError:
            return
        with (self._folder / "killed.log").open("a") as log:
            log.write(f"{self._service} {point}\n")
        os.kill(os.getpid(), by)

    def around(self, owner: Any, name: str, point_of: Callable[..., str], only_if: Callable[[Any], bool] = lambda result: True) -> None:
        """Wraps a coroutine function; `point_of` gets its arguments and names the point, "" for none."""
        original: Method = getattr(owner, name)

        @functools.wraps(original)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            point = point_of(*args, **kwargs)
            if point:
                self.reached(f"before.{point}")
            result = await original(*args, **kwargs)
            if point and only_if(result):
                self.reached(f"after.{point}")
            return result

        setattr(owner, name, wrapped)

    def after_reading(self, module: ModuleType, name: str) -> None:
        """Wraps what finds out what a delivery asks for: from there on it is received."""
        original: Callable[..., Any] = getattr(module, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self.reached("after.receive")
            return result

        setattr(module, name, wrapped)

    def install(self) -> None:
        """Wraps what every service has: broker, store, child."""
        from shared.broker.delivery import RabbitDelivery
        from shared.broker.rabbitmq import RabbitBroker
        from shared.runtime.child import ChildCompute
        from shared.storage.minio import MinioStore

        self.around(RabbitBroker, "publish", lambda broker, publication: publication_point(publication))
        self.around(RabbitDelivery, "ack", lambda delivery: "ack")
        self.around(MinioStore, "put", lambda store, key, *rest: written_point(key))
        self.around(MinioStore, "get", lambda store, key, *rest: "read" if "/webhooks/" in key else "manifest")
        self.around(MinioStore, "upload", lambda store, path, key, *rest: "part.upload" if keys.is_of_part(key) else "upload")
        self.around(MinioStore, "download", lambda store, key, *rest: "part.download" if keys.is_of_part(key) else "download")
        self.around(ChildCompute, "run", lambda child, task, *rest: COMPUTE[task.ask])
        subscribe = RabbitBroker.subscribe

        async def subscribed(broker: RabbitBroker, queue: str, handler: Method, prefetch: int) -> Any:
            async def received(delivery: Any) -> None:
                self.reached("before.receive")
                await handler(delivery)

            return await subscribe(broker, queue, received, prefetch)

        RabbitBroker.subscribe = subscribed  # type: ignore[method-assign, assignment]

    def install_in_worker(self) -> None:
        """And what only a stage's worker has: its messages."""
        from shared.runtime import worker

        self.after_reading(worker, "read_message")

    def install_in_gateway(self) -> None:
        """And what only the gateway has: rows, and what they decided."""
        from gateway import tracker
        from gateway.carrying_out import Carrier
        from gateway.database import outbox

        self.after_reading(tracker, "read_fact")
        self.around(Carrier, "_purge", lambda *args: "purge")
        self.around(outbox, "claim", lambda *args: "claim", only_if=bool)
        self.around(outbox, "mark_sent", lambda *args: "mark")
        self.around(tracker, "fold_facts", lambda *args: "rows")  # in the transaction
        self.around(tracker.Tracker, "_fold", lambda *args: "fold")  # around it

    def install_in_webhooks(self) -> None:
        """And what only the webhooks service does: calls."""
        from services.webhooks import consumer
        from shared.http.posting import GuardedPoster

        self.after_reading(consumer, "read_message")
        self.around(GuardedPoster, "post", lambda *args: "call")


def publication_point(publication: Publication) -> str:
    """What is published; progress is nothing that a promise rests on."""
    if publication.transient:
        return ""
    if publication.exchange in {"retry", "dead"}:
        return publication.exchange
    if publication.type == STAGE_MESSAGE and (message := json.loads(publication.body)).get("split"):
        return "part.work" if message.get("part") else "gather.work"
    return publication.type


def written_point(key: str) -> str:
    """What is written under a key of the store."""
    parts = key.split("/")[2:]
    if parts[-1] == "manifest.json":
        return "commit" if len(parts) == 2 else "attempt"
    if parts[-1] == "split.json":
        return "split"
    if "made" in parts:
        return {".json": "part", ".closes": "claim", ".follows": "follows"}.get(Path(key).suffix, "replaced")
    return {"request.json": "request", "webhooks": "body"}.get(parts[0], parts[0])
