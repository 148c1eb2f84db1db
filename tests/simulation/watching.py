"""What is looked at after every commit and every ack, past all processes: rows only move forward, and nothing is lost for a moment.

Nothing is lost: if everybody were killed now, then for each unfinished job and each pending webhook there would still be a message in
the broker, or a row in the outbox, that brings it to its end. A promise about moments, so no luck is needed to see it broken; and the
sweeper, which finds what was lost after all, hides nothing. A message about a part brings its job on only if no other part is lost.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.database.records import FINISHED
from shared.broker.memory_server import MemoryServer, Message
from shared.contracts.routing import DEAD_EXCHANGE, HEADER_JOB, WEBHOOKS_QUEUE
from shared.ports import Publication
from shared.storage import keys
from tests.simulation.stand_ins import STEPS
from tests.simulation.store import Bucket

Seen = tuple[str, int, float]  # status, version, progress
SplitOf = tuple[str, int, str, str]  # job, position, step, split
_UNSENT = "SELECT job_id, kind, payload FROM outbox WHERE sent_at IS NULL AND kind IN ('publish', 'webhook')"
_WEBHOOK_ENDS = ("delivered", "parked")
_MOST_LOST = 5  # workers, before a step is given up


@dataclass
class Watcher:
    """Reads rows over a connection of its own. `complaints`: each once. `held_s`: longer, nobody need hold what it waits for."""

    rows: sqlite3.Connection
    server: MemoryServer
    bucket: Bucket
    held: Callable[[], Iterable[Message]]
    held_s: float
    seen: dict[str, Seen] = field(default_factory=dict)
    complaints: dict[str, None] = field(default_factory=dict)
    unfinished: bool = False  # whether a job or a webhook is
    _longest_wait_s: dict[int, tuple[Message, float]] = field(default_factory=dict)  # of those who were lost with a message
    _running: list[str] = field(default_factory=list)
    _pending: list[tuple[str, str]] = field(default_factory=list)
    _read: dict[int, tuple[Publication, str, tuple[SplitOf, str | None] | None]] = field(default_factory=dict)
    _promised: set[str] = field(default_factory=set)  # jobs and webhooks that the outbox brings on

    def committed(self) -> None:
        """Looks after a commit: rows change with nothing else."""
        jobs = list(self.rows.execute("SELECT id, status, version, progress, admitted_at FROM jobs"))
        for job_id, *now, _ in jobs:
            self._see(job_id, (now[0], now[1], now[2]))
        self.unfinished = any(status not in FINISHED for _, status, _, _, _ in jobs)
        self._running = [job_id for job_id, status, _, _, admitted in jobs if status not in FINISHED and admitted is not None]
        self._pending = list(self.rows.execute("SELECT id, type FROM deliveries WHERE status = 'pending'"))
        self.unfinished |= bool(self._pending)
        unsent = self.rows.execute(_UNSENT) if self._running or self._pending else ()
        self._promised = {job_id if kind == "publish" else json.loads(payload)["delivery_id"] for job_id, kind, payload in unsent}
        self.look()

    def look(self) -> None:
        """Whether everything that is unfinished is still brought on, now."""
        running = [job_id for job_id in self._running if job_id not in self._promised]
        pending = [each for each in self._pending if each[0] not in self._promised]
        if running or pending:
            moved_by = set(self._movers())
            self._complain(f"{job_id}: nothing would bring it on" for job_id in running if job_id not in moved_by)
            self._complain(f"webhook {kind} {webhook}: nothing would deliver it" for webhook, kind in pending if webhook not in moved_by)

    def lost(self, message: Message, waited_s: float) -> None:
        """A worker was lost with this message, after it had only waited for so long."""
        _, longest_s = self._longest_wait_s.get(id(message), (message, 0.0))
        self._longest_wait_s[id(message)] = (message, max(longest_s, waited_s))

    def given_up(self, messages: Iterable[Message]) -> None:
        """Too many workers were lost with one of these copies. That must have to do with it."""
        copies = list(messages)
        lost = max((max(copy.delivery_count, _read(copy.publication.body).get("resumed", 0)) for copy in copies), default=_MOST_LOST)
        if lost < _MOST_LOST:
            self._complain([f"given up after {lost} workers were lost"])
        waits_s = [self._longest_wait_s.get(id(copy), (copy, 0.0))[1] for copy in copies]
        self._complain(f"given up for a worker that was lost after waiting {wait_s:.0f} s" for wait_s in waits_s if wait_s > self.held_s)

    def found(self, query: str, *values: object) -> bool:
        """Whether a query finds anything."""
        return self.rows.execute(query, values).fetchone() is not None

    def _see(self, job_id: str, now: Seen) -> None:
        before = self.seen.get(job_id)
        if before is not None and before != now:
            if before[0] in FINISHED and now[0] != before[0]:
                self._complain([f"{job_id}: ended as {before[0]}, then as {now[0]}"])
            if now[1] < before[1] or now[2] < before[2]:
                self._complain([f"{job_id}: version or progress fell from {before} to {now}"])
        self.seen[job_id] = now

    def _complain(self, complaints: Iterable[str]) -> None:
        self.complaints |= dict.fromkeys(complaints)

    def _movers(self) -> Iterator[str]:
        """Ids of jobs and webhooks that a message brings on."""
        shares: defaultdict[SplitOf, set[str | None]] = defaultdict(set)
        for message in self._messages():
            moved, share = self._means(message)
            if share is None:
                yield moved
            else:
                shares[share[0]].add(share[1])
        yield from (split[0] for split, waiting in shares.items() if self._brings_on(split, waiting))

    def _means(self, message: Message) -> tuple[str, tuple[SplitOf, str | None] | None]:
        """What it brings on, or which share of a step it is about: read once."""
        found = self._read.get(id(message.publication))
        if found is None:
            share = _share_of(message)
            found = (message.publication, "" if share else _moved_by(message), share)  # kept: nobody else gets its id
            self._read[id(message.publication)] = found
        return found[1:]

    def _messages(self) -> Iterator[Message]:
        for name, queue in self.server.queues.items():
            if not name.startswith("dead."):
                yield from queue.ready
        yield from self.held()

    def _brings_on(self, split: SplitOf, waiting: set[str | None]) -> bool:
        """Whether messages about these parts (None: what follows them) lead to the step's end: all that are not made are there."""
        objects = self.bucket.objects
        manifest = objects.get(keys.step_manifest(*split[:3]))
        if manifest is not None:  # what follows the parts hands the step on; whoever finds that it failed tells so
            return None in waiting or _read(manifest)["error"] is not None
        if keys.split(*split) not in objects:
            return None in waiting  # which starts the step over
        said = {key.rpartition(".")[2] for key in self.bucket.below(keys.parts_made(*split)) if not key.endswith(".json")}
        if keys.split_replaced(*split) in objects or "follows" in said:
            return False
        planned = {part["name"] for part in _read(objects[keys.split(*split)])["parts"]}
        return None in waiting or {part for part in planned if keys.part_made(*split, part) not in objects} <= waiting


def _share_of(message: Message) -> tuple[SplitOf, str | None] | None:
    """The split and the part that a message is about."""
    publication = message.publication
    if publication.exchange in ("events", DEAD_EXCHANGE) or publication.routing_key.endswith(WEBHOOKS_QUEUE):
        return None
    told = _read(publication.body)
    if told["split"] is None:
        return None
    position = told["position"]
    return (told["job_id"], position, told["slip"]["steps"][position]["name"], told["split"]), told["part"]


def _moved_by(message: Message) -> str:
    """The job or webhook that this message brings to its end, or nearer to it; empty: none."""
    publication = message.publication
    key = publication.routing_key
    if publication.exchange in ("events", DEAD_EXCHANGE):
        return _ended_by(publication.exchange, key, publication.body, str(publication.headers.get(HEADER_JOB, "")))
    if key.endswith(WEBHOOKS_QUEUE):
        return "" if _read(publication.body).get("replay") else str(_read(publication.body)["delivery_id"])
    return str(publication.headers.get(HEADER_JOB, ""))


def _ended_by(exchange: str, key: str, body: bytes, job_id: str) -> str:
    """What ends when the tracker takes this in."""
    told = _read(body)
    if exchange == DEAD_EXCHANGE:
        return str(told["delivery_id"]) if key.endswith(WEBHOOKS_QUEUE) else job_id
    if told["type"] == "webhook.attempted":
        return str(told["delivery_id"]) if told["outcome"] in _WEBHOOK_ENDS else ""
    ends = told["type"] == "stage.failed" or (told["type"] == "stage.completed" and told["position"] == len(STEPS) - 1)
    return job_id if ends else ""


_BODIES: dict[bytes, dict[str, Any]] = {}


def _read(body: bytes) -> dict[str, Any]:
    if body not in _BODIES:
        if len(_BODIES) > 1000:
            _BODIES.clear()
        _BODIES[body] = json.loads(body)
    return _BODIES[body]
