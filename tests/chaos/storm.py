"""Many jobs while everything is killed, restarted, cut off and slowed down, from a seeded plan."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from shared.contracts.routing import STAGES
from tests.chaos.jobs import patiently, submit
from tests.chaos.mesh import SERVERS, ChaosMesh, Proxies


@dataclass(frozen=True)
class Storm:
    """How much happens; `seconds` is how long killing goes on at least."""

    jobs: int
    worker_kills: int
    webhook_kills: int
    gateway_kills: int
    broker_restarts: int
    store_away_s: float
    database_away_s: float
    cuts: int
    receiver_cuts: int
    seconds: float
    seed: int = 0

    @property
    def events(self) -> int:
        """How often something is done to the mesh."""
        kills = self.worker_kills + self.webhook_kills + self.gateway_kills
        return kills + self.broker_restarts + self.cuts + self.receiver_cuts + 2


QUICK = Storm(
    jobs=40,
    worker_kills=12,
    webhook_kills=2,
    gateway_kills=2,
    broker_restarts=1,
    store_away_s=5,
    database_away_s=5,
    cuts=6,
    receiver_cuts=2,
    seconds=30,
)
FULL = Storm(
    jobs=1000,
    worker_kills=200,
    webhook_kills=30,
    gateway_kills=10,
    broker_restarts=2,
    store_away_s=60,
    database_away_s=30,
    cuts=60,
    receiver_cuts=20,
    seconds=500,
)


@dataclass
class Events:
    """What was done to the mesh, counted."""

    counts: Counter[str] = field(default_factory=Counter)

    def table(self, storm: Storm, seconds: float, ended: Counter[str], calls: Counter[int]) -> str:
        """Markdown."""
        rows = [
            ("jobs accepted", storm.jobs),
            *(("jobs " + status, count) for status, count in sorted(ended.items())),
            *sorted(self.counts.items()),
            *((f"jobs whose webhook was called {times} times, with one id", count) for times, count in sorted(calls.items())),
            ("seconds", round(seconds)),
        ]
        return "\n".join(["| what | how often |", "|---|---|", *(f"| {what} | {count:,} |" for what, count in rows)])


def send_jobs(api: httpx.Client, hook: str, storm: Storm, job_ids: list[str]) -> None:
    """Evenly over the storm's length."""
    began = time.monotonic()
    for index in range(storm.jobs):
        time.sleep(max(0.0, began + storm.seconds * index / storm.jobs - time.monotonic()))
        job_ids.append(submit(api, hook))


def rage(mesh: ChaosMesh, receiver: Proxies, api: httpx.Client, storm: Storm, events: Events) -> None:
    """Carries out the plan, everything at moments drawn from the seed. `receiver`: the way to the caller's backend."""
    for pause_s, what, action in _plan(mesh, receiver, storm):
        time.sleep(pause_s)
        if action():
            events.counts[what] += 1
        patiently(api, "GET", "/livez")  # nobody learns anything from a gateway that never comes up


def _plan(mesh: ChaosMesh, receiver: Proxies, storm: Storm) -> list[tuple[float, str, Callable[[], bool]]]:
    draw = random.Random(storm.seed)
    away: set[str] = set()
    moments: list[tuple[float, str, Callable[[], bool]]] = []

    def spread(count: int, what: str, action: Callable[[], Callable[[], bool]]) -> None:
        moments.extend((draw.uniform(0.02, 0.98) * storm.seconds, what, action()) for _ in range(count))

    spread(storm.worker_kills, "stage workers killed (SIGKILL)", lambda: _kill(mesh, draw.choice(STAGES), draw.randrange(2)))
    spread(storm.webhook_kills, "webhook services killed (SIGKILL)", lambda: _kill(mesh, "webhooks"))
    spread(storm.gateway_kills, "gateways killed (SIGKILL)", lambda: _kill(mesh, "gateway"))
    spread(storm.broker_restarts, "RabbitMQ killed and restarted", lambda: _crash(mesh))
    hurt, of_servers, of_receiver = "cut, refused, stalled, slowed or half-closed", mesh.proxies, receiver
    spread(storm.cuts, f"connections to servers {hurt}", lambda: _hurt(of_servers, draw.choice(SERVERS), draw.choice(HURTS), away))
    spread(
        storm.receiver_cuts, f"connections to the webhooks' receiver {hurt}", lambda: _hurt(of_receiver, RECEIVER, draw.choice(HURTS), away)
    )
    spread(1, f"MinIO away for {storm.store_away_s:.0f} s", lambda: _away(mesh, "s3", storm.store_away_s, away))
    spread(1, f"PostgreSQL away for {storm.database_away_s:.0f} s", lambda: _away(mesh, "postgres", storm.database_away_s, away))
    moments.sort(key=lambda moment: moment[0])
    before = [0.0, *(moment[0] for moment in moments)]
    return [(moment[0] - earlier, *moment[1:]) for earlier, moment in zip(before, moments, strict=False)]


HURTS = (("cut", ""), ("half_close", ""), ("stall", "resume"), ("slow", "fast"), ("refuse", "accept"))
RECEIVER = "receiver"
_HURT_S = 3.0
_AWAY_AT_MOST_S = 120.0


def _kill(mesh: ChaosMesh, service: str, index: int = 0) -> Callable[[], bool]:
    def action() -> bool:
        deadline = time.monotonic() + _AWAY_AT_MOST_S  # it may be starting again, behind RabbitMQ on a busy machine
        while not mesh.kill(service, index % len(mesh.of(service))):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    return action


def _crash(mesh: ChaosMesh) -> Callable[[], bool]:
    def action() -> bool:
        mesh.rabbitmq.kill()  # `watch` starts it again
        return True

    return action


def _hurt(proxies: Proxies, server: str, hurt: tuple[str, str], away: set[str]) -> Callable[[], bool]:
    def action() -> bool:
        there = next(name for name in (server, *SERVERS) if name not in away)
        proxies.do(there, hurt[0])
        threading.Timer(_HURT_S, end, (there,)).start()
        return True

    def end(there: str) -> None:
        if hurt[1] and not (hurt[1] == "accept" and there in away):  # a server that went away meanwhile stays away
            proxies.do(there, hurt[1])

    return action


def _away(mesh: ChaosMesh, server: str, seconds: float, away: set[str]) -> Callable[[], bool]:
    def action() -> bool:
        away.add(server)
        mesh.proxies.do(server, "refuse")
        threading.Timer(seconds, end).start()
        return True

    def end() -> None:
        away.discard(server)
        mesh.proxies.do(server, "accept")

    return action
