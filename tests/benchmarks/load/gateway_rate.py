"""Accepted jobs a second: a real gateway on PostgreSQL, RabbitMQ and MinIO, a caller on loopback, all on this machine's cores.

Every 202 is a row that is committed (fsync is on); the relay lets jobs in meanwhile, no worker takes them. `against` is a checkout of
other code, measured in turn with this one.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil

from deploy.native.mesh import DATABASE, ROOT, Mesh, Ports
from deploy.native.process import Process, is_ready
from tests.benchmarks.load.generator import Measured

PHOTOS = 24
WARM_UP_JOBS = 500
_COPIES = """
WITH model AS (SELECT id FROM jobs WHERE status = 'queued' AND admitted_at IS NULL LIMIT 1),
     made AS (INSERT INTO jobs SELECT (jsonb_populate_record(jobs, jsonb_build_object('id', gen_random_uuid(), 'idempotency_key',
              gen_random_uuid()))).* FROM jobs, generate_series(1, $1) WHERE id = (SELECT id FROM model) RETURNING id),
     stepped AS (INSERT INTO steps SELECT (jsonb_populate_record(steps, jsonb_build_object('job_id', made.id))).*
                 FROM steps, made WHERE steps.job_id = (SELECT id FROM model))
INSERT INTO outbox (job_id, kind, payload, due_at) SELECT made.id, kind, payload, due_at FROM made, outbox
WHERE outbox.job_id = (SELECT id FROM model)
"""


@dataclass(frozen=True)
class Rate:
    """One row of the table. CPU in milliseconds a job, by part; `asked` is 0 where connections sent as fast as they were answered."""

    code: str
    queued: int
    asked: float
    accepted: float
    p50_ms: float
    p99_ms: float
    cpu_ms: dict[str, float]
    refused: int


class Gateways:
    """The three servers and `count` gateways of one checkout, with an empty database of their own."""

    def __init__(self, folder: Path, code: Path, ports: list[Ports]) -> None:
        self.mesh = Mesh(folder, ports[0], {})
        self.ports = [port.api for port in ports]
        self._code = code
        self._processes: list[Process] = []

    def start(self) -> None:
        """Returns when every gateway is ready."""
        for server in self.mesh.servers():
            server.start()
        self.mesh.postgres.create_database(DATABASE)
        for index, port in enumerate(self.ports):
            environment = {**self.mesh._environment, "MESHWORK_PORT": str(port)}
            log = self.mesh.folder / "logs" / f"gateway-{index}.log"
            process = Process([sys.executable, "-m", "gateway"], log, environment, self._code)
            process.start()
            process.wait_ready(lambda port=port: is_ready(f"http://127.0.0.1:{port}"))
            self._processes.append(process)

    def end(self) -> None:
        """Ends everything and removes its data."""
        for process in self._processes:
            process.kill()
        self.mesh.destroy()

    def fill(self, jobs: int) -> None:
        """That many more jobs that wait: copies of one, with steps and outbox rows of their own."""

        async def copy() -> None:
            connection = await asyncpg.connect(self.mesh.postgres.url(DATABASE).replace("+asyncpg", ""))
            await connection.execute(_COPIES, jobs, timeout=300)
            await connection.execute("ANALYZE", timeout=300)
            await connection.close()

        asyncio.run(copy())

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of each part so far."""
        roots = {"gateway": [process.pid for process in self._processes]}
        for server in self.mesh.servers():
            roots[server.name] = [server._process.pid]
        return {name: sum(cpu_of(pid) for pid in pids if pid) for name, pids in roots.items()}

    def post(self, jobs: int, rate: float, connections: int) -> list[Measured]:
        """Spread evenly over the gateways, by a generator for each."""
        count = len(self.ports)
        asked = [
            [sys.executable, "-m", "tests.benchmarks.load.generator", "--port", str(port), f"--key={self.mesh.secrets['MESHWORK_API_KEY']}",
             "--jobs", str(jobs // count), "--rate", str(rate / count), "--connections", str(connections // count)]
            for port in self.ports
        ]  # fmt: skip
        running = [subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for argv in asked]
        for process in running:
            assert process.stdin is not None
            process.stdin.write(body())
            process.stdin.close()
        found = []
        for process in running:
            assert process.stdout is not None
            said = json.loads(process.stdout.read())
            found.append(Measured(**said | {"statuses": {int(status): n for status, n in said["statuses"].items()}}))
            process.wait()
        return found


def body() -> bytes:
    """A job of 24 photos with a callback and metadata."""
    urls = [f"https://shop.example/products/1234/photos/{index:02d}.jpg" for index in range(PHOTOS)]
    return json.dumps({"image_urls": urls, "callback_url": "https://shop.example/hooks/meshwork", "metadata": {"sku": "A-17"}}).encode()


def measure(gateways: Gateways, code: str, jobs: int, rate: float, connections: int, queued: int) -> Rate:
    """One row."""
    before = gateways.cpu_s()
    found = gateways.post(jobs, rate, connections)
    after = gateways.cpu_s()
    accepted = sum(part.statuses.get(202, 0) for part in found)
    cpu = {name: after[name] - before[name] for name in after} | {"generator": sum(part.cpu_s for part in found)}
    return Rate(
        code=code,
        queued=queued,
        asked=rate,
        accepted=accepted / max(part.seconds for part in found),
        p50_ms=max(part.p50_ms for part in found),
        p99_ms=max(part.p99_ms for part in found),
        cpu_ms={name: 1e3 * seconds / jobs for name, seconds in cpu.items()},
        refused=jobs - accepted,
    )


@contextmanager
def gateways_of(code: Path, count: int) -> Iterator[Gateways]:
    """They run while the context lasts."""
    folder = Path(tempfile.mkdtemp(prefix="meshwork-load-"))
    folder.chmod(0o755)  # PostgreSQL's own user must get through
    gateways = Gateways(folder / "mesh", code, [Ports() for _ in range(count)])
    try:
        gateways.start()
        yield gateways
    finally:
        gateways.end()
        shutil.rmtree(folder, ignore_errors=True)


def rows_of(name: str, code: Path, count: int, rate: float, jobs: int, queued: int, connections: int) -> Iterator[Rate]:
    """At an empty queue: as fast as it goes, then at the rate; then both with `queued` jobs waiting."""
    with gateways_of(code, count) as gateways:
        gateways.post(WARM_UP_JOBS, 0.0, connections)
        waiting = WARM_UP_JOBS
        for target in sorted({0, queued}):
            if waiting < target:
                gateways.fill(target - waiting)
                waiting = target
            for asked in (rate, 0.0):
                yield measure(gateways, name, jobs, asked, connections, waiting)
                waiting += jobs


def table(rows: list[Rate]) -> str:
    """Markdown."""
    parts = list(rows[0].cpu_ms)
    head = ["code", "jobs waiting", "asked /s", "accepted /s", "p50 ms", "p99 ms", "refused", *(f"{part} CPU ms" for part in parts)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row.code, f"{row.queued:,}", f"{row.asked:.0f}" if row.asked else "all", f"{row.accepted:.0f}", f"{row.p50_ms:.1f}"]
        cells += [f"{row.p99_ms:.1f}", str(row.refused), *(f"{row.cpu_ms[part]:.2f}" for part in parts)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cpu_of(pid: int) -> float:
    """Of a process and all that it started, also those that ended."""
    try:
        root = psutil.Process(pid)
        every = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    total = 0.0
    for process in every:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + (times.children_user + times.children_system if process is root else 0.0)
    return total


def load_average() -> str:
    """What else this machine did in the last minute."""
    return f"{os.getloadavg()[0]:.1f}"
