"""The mesh in one thread: gateways, workers and webhooks as processes that can be killed, around one broker, bucket and database."""

import asyncio
import contextvars
import random
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from gateway.database.repositories import JobRepository
from shared.broker.memory_server import MemoryServer, Message
from tests.simulation.broker import BROKER, SimulatedBroker
from tests.simulation.loop import SimulationLoop
from tests.simulation.network import PROCESS, Hooks, Network
from tests.simulation.parts import GATEWAY, Process, parts_of
from tests.simulation.plan import HUNT, Fault, Plan
from tests.simulation.rows import DATABASE, DatabaseFile, SimulatedDatabase
from tests.simulation.stand_ins import CROWD, PARTITIONED, STEPS, Receiver
from tests.simulation.store import STORE, Bucket
from tests.simulation.watching import Watcher
from tests.support.gateway_rows import LINKS

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
REPLICAS = {GATEWAY: 2, **dict.fromkeys(STEPS, 2), "webhooks": 2}
_HELD_S, _HELD_SLOWLY_S = 40.0, 120.0  # 10 s of patience, a pause between tries and one before a publish; calls may take 30 s each
_ON_PROCESSES = {"kill", "restart", "cut", "cancel_consumer", "stall"}


@dataclass
class World:
    """Everything that one run has. `file`: without rows."""

    plan: Plan
    loop: SimulationLoop
    rng: random.Random
    file: DatabaseFile
    bucket: Bucket = field(default_factory=Bucket)
    processes: dict[str, Process] = field(default_factory=dict)  # by role; those that are being stopped are not here
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._living: dict[str, Process] = {}  # by name
        self._generation = 0
        self.own_context = contextvars.copy_context()
        self.network = Network(self.plan, self.rng, self.own_context, Hooks(self._crash, self._cut, self.loop.stall))
        self.server = MemoryServer()
        self.living_queues = [queue for name, queue in self.server.queues.items() if not name.startswith("dead.")]
        self.receiver = Receiver(self.network, self.rng, self.plan.deaf)
        self.watcher = Watcher(self.file.watched, self.server, self.bucket, self._held, _HELD_SLOWLY_S if self.plan.slow else _HELD_S)
        self.caller_rows = self.database()
        self.own_context.run(self.caller_rows.enter)
        self.caller_rows.database.on_outbox(self._wake_a_relay)
        self.jobs = JobRepository(self.caller_rows.database, LINKS, self.new_id)

    def now(self) -> datetime:
        """The one clock."""
        return EPOCH + timedelta(seconds=self.loop.time())

    def new_id(self) -> str:
        """Random, by the seed."""
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def database(self) -> SimulatedDatabase:
        """A way to the rows."""
        return SimulatedDatabase(self.file, self.network, self.now, self.watcher.committed)

    @property
    def trouble(self) -> float:
        """How often stages fail by themselves, now."""
        return 0.0 if self.network.calm else self.plan.trouble

    async def start_all(self) -> None:
        """Brings up what is not running."""
        replicas = REPLICAS | ({PARTITIONED: CROWD} if self.plan.crowd else {})
        roles = [f"{kind}-{i}" for kind, count in replicas.items() for i in range(count)]
        await asyncio.gather(*(self.start(role) for role in roles if role not in self.processes))

    async def start(self, role: str) -> None:
        """A new process."""
        self._generation += 1
        name = f"{role}#{self._generation}"
        context = self.own_context.copy()
        context.run(PROCESS.set, name)
        process = Process(role, name, context, SimulatedBroker(name, self.server, self.network, self.own_context, self.watcher))
        self.processes[role] = self._living[name] = process
        process.parts = context.run(parts_of, process, self)
        process.starting = starting = self.loop.create_task(process.start(), context=context)
        while not starting.done() and self.processes.get(role) is process:  # one that is killed meanwhile never says so
            await asyncio.wait({starting}, timeout=1.0)

    def at(self, fault: Fault) -> None:
        """Carries out a fault, now."""
        running = sorted(self.processes)
        role = running[fault.target % len(running)] if running else ""
        about = role if fault.kind in _ON_PROCESSES else str(fault.target)
        self.log.append(f"step {self.loop.steps}, {self.loop.time():.1f} s: {fault.kind} {about} ({fault.seconds} s)")
        if fault.kind == "away":
            self._take_away((BROKER, STORE, DATABASE)[fault.target % 3], fault.seconds)
        elif fault.kind == HUNT:
            self._hunt(fault)
        elif fault.kind == "corrupt":
            self._corrupt(fault.target)
        elif role:
            self._strike(fault, self.processes[role])

    def kill_all(self) -> None:
        """Nobody runs any more."""
        for process in list(self._living.values()):
            self._kill(process)
        self.processes.clear()

    def at_rest(self) -> bool:
        """Whether all jobs ended, all webhooks too, nothing is due, and nothing is on its way."""
        if self.watcher.unfinished or any(queue.ready for queue in self.living_queues) or self._held():
            return False
        unsent = "SELECT 1 FROM outbox WHERE sent_at IS NULL AND kind != 'purge'"
        return not self.watcher.found(unsent) and not self.purges(due_by=self.now())

    def purges(self, due_by: datetime) -> bool:
        """Whether there is a purge to be carried out by then."""
        query = "SELECT 1 FROM outbox WHERE sent_at IS NULL AND kind = 'purge' AND due_at <= ?"
        return self.watcher.found(query, f"{due_by:%Y-%m-%d %H:%M:%S.%f}")

    def calm_down(self) -> None:
        """Nothing goes wrong any more."""
        self.network.calm_down()
        self.receiver.deaf = 0.0
        for process in self._living.values():
            process.calm_down()

    def close(self) -> None:
        """Nothing runs any more: connections are given back."""
        for process in self._living.values():
            process.cut_rows()
        self.caller_rows.cut()

    def _strike(self, fault: Fault, process: Process) -> None:
        match fault.kind:
            case "kill":
                self._crash(process.name, fault.seconds)
            case "restart":
                del self.processes[process.role]
                self._come_back(process, fault.seconds, gracefully=True)
            case "cut":
                process.broker.drop_connection()
            case "cancel_consumer":
                process.broker.drop_connection(counted=False)
            case "stall":
                self.loop.stall(process.name, fault.seconds)

    def _hunt(self, fault: Fault) -> None:
        """The store is away, and whoever waits for it does not live long."""
        rng, at_s = random.Random(f"hunt {fault.target}"), 0.0
        self._take_away(STORE, fault.seconds)
        while (at_s := at_s + rng.choice((5.0, 30.0, 60.0)) * rng.random()) < fault.seconds:
            self.loop.call_later(at_s, self._kill_a_holder, rng, context=self.own_context.copy())

    def _kill_a_holder(self, rng: random.Random) -> None:
        holders = sorted(role for role, process in self.processes.items() if process.compute is not None and process.broker.held())
        if holders and not self.network.calm:
            self._crash(self.processes[rng.choice(holders)].name, 0.5)

    def _crash(self, name: str, back_after_s: float) -> None:
        process = self._living[name]
        self._kill(process)
        if self.processes.get(process.role) is process:
            del self.processes[process.role]
            self._come_back(process, back_after_s, gracefully=False)

    def _come_back(self, process: Process, after_s: float, gracefully: bool) -> None:
        async def come_back() -> None:
            if gracefully:
                await process.leave(self.loop)
                self._kill(process)  # what it leaves running ends with it
            await asyncio.sleep(after_s)
            if process.role not in self.processes:
                await self.start(process.role)

        self.loop.create_task(come_back(), context=self.own_context.copy())

    def _kill(self, process: Process) -> None:
        """SIGKILL."""
        self.loop.kill(process.name)
        self._living.pop(process.name, None)
        process.cut_rows()
        self.own_context.copy().run(process.broker.cut)

    def _cut(self, name: str) -> None:
        self._living[name].broker.drop_connection()

    def _held(self) -> list[Message]:
        return [message for process in self._living.values() for message in process.broker.held()]

    def _wake_a_relay(self, kinds: Collection[str]) -> None:
        """Callers talk to some gateway, and its relay knows at once."""
        for role, process in self.processes.items():
            if role.startswith(GATEWAY) and process.rows is not None:
                process.context.copy().run(process.rows.database.wake_relay, kinds)
                return

    def _take_away(self, dependency: str, seconds: float) -> None:
        self.network.away.setdefault(dependency, self.loop.time())
        self.loop.call_later(seconds, self.network.away.pop, dependency, None, context=self.own_context.copy())

    def _corrupt(self, target: int) -> None:
        """A bit flips in something that a step made, or it vanishes."""
        made = self.bucket.outputs()
        if made:
            key = made[target % len(made)]
            (self.bucket.lose if target % 7 == 0 else self.bucket.damage)(key)
            self.log.append(f"  lost {key}" if target % 7 == 0 else f"  damaged {key}")
