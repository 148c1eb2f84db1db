"""What each kind of process runs: the product's own parts, around adapters that cross the simulated network."""

import asyncio
import contextvars
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Protocol

from pydantic import SecretStr

from gateway.relay import Relay
from gateway.sweeper import Sweeper
from gateway.tracker import Tracker
from services.webhooks.consumer import WebhookConsumer
from services.webhooks.settings import WebhookSettings
from shared.runtime.settings import WorkerSettings
from shared.runtime.worker import StageWorker
from tests.simulation.broker import SimulatedBroker
from tests.simulation.folders import SimulatedFolder
from tests.simulation.rows import SimulatedDatabase
from tests.simulation.stand_ins import SimulatedCompute
from tests.simulation.store import SimulatedStore
from tests.support.gateway_rows import LINKS, SEAL_KEY, relay_settings

if TYPE_CHECKING:
    from tests.simulation.world import World

GATEWAY = "gateway"
WEBHOOK_SCHEDULE_S = (10.0, 60.0, 300.0)
_SELDOM_S = 1800.0  # what only looks whether something is to be done costs a run time, and proves nothing
_STOP_POLL_S = 5.0  # often enough to meet most computations, which take up to 45 s
_LEAVES_WITHIN_S = 60.0
_RELAY = relay_settings(webhook_schedule_s=WEBHOOK_SCHEDULE_S, poll_s=_SELDOM_S)


class Part(Protocol):
    """Something a process runs."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass
class Process:
    """One process, from its start to its end. `role` stays the same over restarts, `name` does not."""

    role: str
    name: str
    context: contextvars.Context
    broker: SimulatedBroker
    rows: SimulatedDatabase | None = None
    compute: SimulatedCompute | None = None
    parts: list[Part] = field(default_factory=list)
    starting: asyncio.Task[None] | None = None

    @property
    def kind(self) -> str:
        """Which parts it runs."""
        return self.role.split("-")[0]

    async def start(self) -> None:
        """Its main function, up to where it waits for a signal."""
        for part in self.parts:
            await part.start()

    async def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """SIGTERM, also in the middle of its start. It may take as long as whoever runs processes lets it."""
        if self.starting is not None:
            self.starting.cancel()
        await asyncio.wait({loop.create_task(self._stop(), context=self.context)}, timeout=_LEAVES_WITHIN_S)

    def cut_rows(self) -> None:
        """What it had not committed never was."""
        if self.rows is not None:
            self.rows.cut()

    def calm_down(self) -> None:
        """Its stage fails no more."""
        if self.compute is not None:
            self.compute.trouble = 0.0

    async def _stop(self) -> None:
        for part in reversed(self.parts):
            await part.stop()
        await self.broker.close()


def parts_of(process: Process, world: "World") -> list[Part]:
    """To be called in the process's own context."""
    store = SimulatedStore(world.bucket, world.network)
    if process.kind == GATEWAY:
        process.rows = world.database()
        process.rows.enter()
        return _gateway_parts(process, process.rows, store, world.plan.linger)
    if process.kind == "webhooks":
        return [WebhookConsumer(process.broker, store, world.receiver, _webhook_settings(), world.now, world.new_id, world.rng)]
    process.compute = compute = SimulatedCompute(process.kind, world.rng, world.trouble, world.plan.crowd, world.plan.early)
    process.broker.computations = lambda: compute.begun
    folder = SimulatedFolder(process.name)
    stage = f"simulated:{process.kind}"
    return [
        StageWorker(stage, process.kind, process.broker, store, _worker_settings(), compute, folder, world.new_id, world.now, world.rng)
    ]


def _gateway_parts(process: Process, rows: SimulatedDatabase, store: SimulatedStore, linger_s: float) -> list[Part]:
    return [
        Relay(rows.database, process.broker, store, _RELAY, process.name),
        Sweeper(rows.database, process.broker, timedelta(seconds=_SELDOM_S)),
        Tracker(rows.database, process.broker, store, LINKS, linger_s),
    ]


@cache
def _webhook_settings() -> WebhookSettings:
    return WebhookSettings(seal_key=SecretStr(SEAL_KEY), grace_s=10.0, dependency_check_s=_SELDOM_S)


@cache
def _worker_settings() -> WorkerSettings:
    return WorkerSettings(grace_s=10.0, dependency_check_s=_SELDOM_S, stop_poll_s=_STOP_POLL_S)
