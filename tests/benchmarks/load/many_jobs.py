"""Many jobs of stand-ins through all six stages, webhooks included: how many a minute, what each costs broker, store and database, and
whether any process grows.

Every part is the product's own but the compute: each stage reads what the one before it made, checks it, and writes its own.
"""

import asyncio
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from deploy.native.mesh import DATABASE, Mesh, Ports
from deploy.native.process import free_port
from shared.contracts.routing import STAGES
from tests.benchmarks.load.gateway_rate import cpu_of
from tests.benchmarks.load.generator import Load, drive

PAYLOAD_BYTES = 1 << 10  # small: what is counted is operations, and the disk is not ours alone
SAMPLE_S = 5.0
BODY = b'{"image_urls": ["https://a.example/1.jpg", "https://a.example/2.jpg", "https://a.example/3.jpg"], "callback_url": "%s"}'
MIB = 1 << 20

# From a third of the jobs to their end, when pools, caches and kernels are what they will be, a process may grow by a fifth (what collects
# its garbage when it likes, as MinIO with its 340 MiB, moves by that much) or by 24 MiB, which is 5 KiB of each of the 5,000 jobs of 10,000
# that lie between. Compared are medians, each over a sixth of the jobs: a worker has 20 MiB more while its child is there.
GROWTH = 0.2
LEAST_GROWTH_BYTES = 24 * MIB
# What a server fills once, however slowly, comes on top: RabbitMQ's queues begin their log anew at 64 MiB, PostgreSQL has 128 MiB of shared
# buffers.
FILLS_BYTES = {"rabbitmq": 64 * MIB, "postgres": 128 * MIB}
AFTER_A_THIRD, AT_THE_END = (1 / 3, 1 / 2), (5 / 6, 1.0)  # shares of the jobs that ended
LEAST_SAMPLES = 5  # in each: fewer tell nothing


@dataclass(frozen=True)
class Sample:
    """The mesh at one moment: jobs that ended, memory by process in bytes, CPU seconds by part so far."""

    seconds: float
    ended: int
    memory: dict[str, int]
    cpu_s: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What came of it. `operations`: of broker, store and database, all jobs together."""

    jobs: int
    statuses: dict[str, int]
    calls: int
    samples: list[Sample]
    operations: dict[str, float]


class StandInMesh(Mesh):
    """The mesh of the product, with stages that compute nothing."""

    def command(self, service: str) -> list[str]:
        if service not in STAGES:
            return super().command(service)
        target = f"tests.chaos.stand_ins:{service.capitalize()}"
        return [sys.executable, "-c", f"from shared.runtime.entrypoint import main; main('{target}')"]

    def parts(self) -> dict[str, int | None]:
        """Process ids by name."""
        found = {f"{replica.service}-{replica.number}": replica.process.pid for replica in self.replicas}
        return found | {server.name: server._process.pid for server in self.servers()}


class Receiver:
    """A caller's backend: counts calls, and thanks for each."""

    def __init__(self) -> None:
        self.calls = 0
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        self._loop.run_until_complete(asyncio.start_server(self._answer, "127.0.0.1", self.port))
        self._loop.run_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0))
                self.calls += 1
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


def run(jobs: int, scale: dict[str, int], limit_s: float) -> list[str]:
    """Posts `jobs` at once and watches until all ended and were told, or the time is over; prints the tables, then clears away, which
    takes minutes: a job leaves fifty files. Returns what is wrong: jobs or calls that are missing, processes that grew."""
    receiver = Receiver()
    with _mesh(scale) as mesh:
        load = Load(mesh.ports.api, mesh.secrets["MESHWORK_API_KEY"], jobs, 0.0, 32)
        began, before = time.monotonic(), _operations(mesh)
        measured = asyncio.run(drive(load, BODY.replace(b"%s", b"http://127.0.0.1:%d/hook" % receiver.port)))
        print(f"{jobs} jobs accepted in {measured.seconds:.0f} s: {measured.statuses}", flush=True)
        samples = [_sample(mesh, began)]
        while (samples[-1].ended < jobs or receiver.calls < jobs) and samples[-1].seconds < limit_s:
            time.sleep(SAMPLE_S)
            samples.append(_sample(mesh, began))
            if len(samples) % 12 == 0:
                print(
                    f"{samples[-1].seconds:.0f} s: {samples[-1].ended} ended, {receiver.calls} called, load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
        time.sleep(SAMPLE_S)  # RabbitMQ counts every few seconds
        after = _operations(mesh)
        statuses = {str(row["status"]): int(row["n"]) for row in _query(mesh, "SELECT status, count(*) AS n FROM jobs GROUP BY status")}
        outcome = Outcome(jobs, statuses, receiver.calls, samples, {name: after[name] - before.get(name, 0) for name in after})
        wrong = faults(outcome)
        print(table(outcome), *wrong, sep="\n", flush=True)
    receiver.close()
    return wrong


@contextmanager
def _mesh(scale: dict[str, int]) -> Iterator[StandInMesh]:
    os.environ |= {"MINIO_PROMETHEUS_AUTH_TYPE": "public", "STAND_IN_PAYLOAD_BYTES": str(PAYLOAD_BYTES), "STAND_IN_PARTED": "0"}
    folder = Path(tempfile.mkdtemp(prefix="meshwork-load-"))
    folder.chmod(0o755)  # PostgreSQL's own user must get through
    settings = {"MESHWORK_ALLOWED_PRIVATE_NETWORKS": "127.0.0.1/32", "MESHWORK_IN_FLIGHT": "64"}
    mesh = StandInMesh(folder / "mesh", Ports(), settings)
    try:
        mesh.start(scale)
        yield mesh
    finally:
        mesh.destroy()
        shutil.rmtree(folder, ignore_errors=True)


def _sample(mesh: StandInMesh, began: float) -> Sample:
    parts = {name: pid for name, pid in mesh.parts().items() if pid}
    ended = int(_query(mesh, "SELECT count(*) AS n FROM jobs WHERE finished_at IS NOT NULL")[0]["n"])
    memory = {name: _memory_of(pid) for name, pid in parts.items()}
    return Sample(time.monotonic() - began, ended, memory, {name: cpu_of(pid) for name, pid in parts.items()})


def _memory_of(pid: int) -> int:
    """Of a process and its children; shared pages are divided among those who share them."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
    return total


def _query(mesh: StandInMesh, query: str) -> list[Any]:
    async def ask() -> list[Any]:
        connection = await asyncpg.connect(mesh.postgres.url(DATABASE).replace("+asyncpg", ""))
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()

    return asyncio.run(ask())


def _operations(mesh: StandInMesh) -> dict[str, float]:
    """Counters of the three servers."""
    stats = mesh.rabbitmq.management.call("GET", "overview").get("message_stats", {})
    found = {f"RabbitMQ {name}": float(stats.get(name, 0)) for name in ("publish", "deliver", "ack", "redeliver")}
    with urllib.request.urlopen(f"{mesh.minio.endpoint}/minio/v2/metrics/cluster", timeout=30) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("minio_s3_requests_total{"):
                found["MinIO " + line.partition('api="')[2].partition('"')[0]] = float(line.rpartition(" ")[2])
    row = _query(mesh, f"SELECT * FROM pg_stat_database WHERE datname = '{DATABASE}'")[0]
    columns = {"xact_commit": "commits", "tup_inserted": "rows inserted", "tup_updated": "rows updated"}
    return found | {f"PostgreSQL {name}": float(row[column]) for column, name in columns.items()}


def faults(outcome: Outcome) -> list[str]:
    """Sentences; none where every job completed and was told, and no process grew."""
    told = [f"{outcome.jobs:,} jobs, but {outcome.statuses}"] if outcome.statuses != {"completed": outcome.jobs} else []
    if outcome.calls < outcome.jobs:
        told.append(f"{outcome.jobs:,} jobs, but {outcome.calls:,} webhook calls")
    return told + [f"{name} grew from {before / MIB:.0f} to {after / MIB:.0f} MiB" for name, before, after in grown(outcome.samples)]


def grown(samples: list[Sample]) -> list[tuple[str, float, float]]:
    """(process, bytes after a third, bytes at the end) of each that grew by more than it may; none where samples are too few to tell."""
    early, late = (_within(samples, shares) for shares in (AFTER_A_THIRD, AT_THE_END))
    if min(len(early), len(late)) < LEAST_SAMPLES:
        return []
    found = []
    for name in sorted(late[-1].memory):
        before, after = (statistics.median(sample.memory.get(name, 0) for sample in part) for part in (early, late))
        if after - before > max(GROWTH * before, LEAST_GROWTH_BYTES) + FILLS_BYTES.get(name, 0):
            found.append((name, before, after))
    return found


def _within(samples: list[Sample], shares: tuple[float, float]) -> list[Sample]:
    """While jobs of these shares of all that ended did."""
    first, last = (share * samples[-1].ended for share in shares)
    return [sample for sample in samples if first <= sample.ended <= last]


def table(outcome: Outcome) -> str:
    """Markdown: throughput, memory at four moments, operations a job."""
    last = outcome.samples[-1]
    marks = [next(s for s in outcome.samples if s.ended >= share * last.ended) for share in (0.05, 0.35, 0.65, 1.0)]
    lines = [f"{outcome.jobs:,} jobs: {outcome.statuses}, {outcome.calls:,} webhook calls."]
    lines += [
        f"{60 * last.ended / last.seconds:.0f} jobs a minute.",
        "",
        "| MiB after | " + " | ".join(f"{s.ended:,} jobs" for s in marks) + " | CPU ms a job |",
    ]
    lines += ["|---" * (len(marks) + 2) + "|"]
    for name in sorted(last.memory):
        cells = [f"{mark.memory.get(name, 0) / MIB:.0f}" for mark in marks]
        lines.append(f"| {name} | {' | '.join(cells)} | {1e3 * last.cpu_s.get(name, 0) / max(1, last.ended):.1f} |")
    lines += ["", "| operations | a job |", "|---|---|"]
    lines += [f"| {name} | {count / outcome.jobs:.1f} |" for name, count in sorted(outcome.operations.items()) if count]
    return "\n".join(lines)
