"""The native mesh with stand-ins, fault points in every process, and a proxy before each server."""

import asyncio
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from deploy.native.mesh import DATABASE, VHOST, Mesh, Ports, Replica
from deploy.native.process import free_port
from shared.broker.rabbitmq import RabbitBroker
from shared.broker.topology import TOPOLOGY
from tests.chaos.fault_points import FOLDER_VARIABLE, arm
from tests.support.brokers import back_soon
from tests.support.eventually import wait_until
from tests.support.proxy import TcpProxy

SERVERS = ("amqp", "postgres", "s3")
SOON_MS = 1000


class Proxies:
    """One TcpProxy per port, on an event loop of their own. `with Proxies.of(ports) as proxies: proxies.do("amqp", "cut")`."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._proxies = {name: TcpProxy("127.0.0.1", port) for name, port in ports.items()}

    @classmethod
    def of(cls, ports: Ports) -> Self:
        """Before each server."""
        return cls({name: getattr(ports, name) for name in SERVERS})

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def open(self) -> None:
        """Listens."""
        self._thread.start()
        for proxy in self._proxies.values():
            asyncio.run_coroutine_threadsafe(proxy.__aenter__(), self._loop).result(10)

    def close(self) -> None:
        """Resets every connection and ends."""
        for proxy in self._proxies.values():
            asyncio.run_coroutine_threadsafe(proxy.__aexit__(None, None, None), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def port(self, server: str) -> int:
        """Where it is reached through its proxy."""
        return self._proxies[server].port

    def do(self, server: str, action: str) -> None:
        """`cut`, `refuse`, `accept`, `stall`, `resume` or `half_close`; `slow` and `fast` set the delay of every chunk."""
        proxy = self._proxies[server]
        if action in {"slow", "fast"}:
            proxy.delay_s = 0.05 if action == "slow" else 0.0
        else:
            self._loop.call_soon_threadsafe(getattr(proxy, action))


def lacks(replica: Replica) -> list[str]:
    """What a worker says that it waits for."""
    answer = httpx.get(f"http://127.0.0.1:{replica.health_port}/readyz", timeout=5)
    return [name for name, state in answer.json()["dependencies"].items() if state != "ok"]


class ChaosMesh(Mesh):
    """Every process is started by tests.chaos.process and reaches its servers through `proxies`."""

    def __init__(self, folder: Path) -> None:
        ports = Ports()
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        self.proxies = Proxies.of(ports)
        settings = {FOLDER_VARIABLE: str(self.faults), "MESHWORK_ALLOWED_PRIVATE_NETWORKS": "127.0.0.1/32", "MESHWORK_IN_FLIGHT": "64"}
        super().__init__(folder, ports, settings)
        self.proxies.open()
        self._environment |= self.through(self.proxies)

    def through(self, proxies: Proxies) -> dict[str, str]:
        """Settings of a process that reaches its servers through these."""
        urls = {"AMQP_URL": self.rabbitmq.url(VHOST), "DATABASE_URL": self.postgres.url(DATABASE), "S3_ENDPOINT": self.minio.endpoint}
        return {
            f"MESHWORK_{variable}": url.replace(f":{getattr(self.ports, server)}", f":{proxies.port(server)}")
            for (variable, url), server in zip(urls.items(), SERVERS, strict=True)
        }

    def command(self, service: str) -> list[str]:
        """With fault points; stages are stand-ins."""
        return [sys.executable, "-m", "tests.chaos.process", service]

    def destroy(self) -> None:
        """And the proxies."""
        super().destroy()
        self.proxies.close()

    def add(self, service: str, **settings: str) -> Replica:
        """One more process of a service, with settings of its own."""
        usual, self._environment = self._environment, {**self._environment, **settings}
        try:
            self._add(service)
        finally:
            self._environment = usual
        return self.of(service)[-1]

    @contextmanager
    def second_gateway(self, **settings: str) -> Iterator[Replica]:
        """Beside the first one, with settings of its own, on another port; gone afterwards."""
        port = free_port()
        replica = self.add("gateway", MESHWORK_PORT=str(port), **settings)
        replica.health_port = port
        try:
            wait_until(replica.is_ready, timeout_s=60, interval_s=0.2)
            yield replica
        finally:
            self.replicas.remove(replica)
            replica.process.stop()

    def renew(self, service: str) -> None:
        """One process of the service, with the settings of all, in place of whatever there is."""
        self.scale(service, 0)
        self.scale(service, 1)

    def begin_anew(self, replica: Replica, **settings: str) -> None:
        """Asks a process to leave; returns when another is ready in its place, with these settings beside its own."""
        before = replica.process.pid
        replica.process.env.update(settings)
        replica.process.terminate()  # `watch` starts it again
        wait_until(lambda: replica.process.pid not in {None, before} and replica.is_ready(), timeout_s=90, interval_s=0.2)

    def arm(self, service: str, *points: str) -> None:
        """The next process of the service that reaches one of these points dies there, once for each."""
        arm(self.faults, service, points)

    def disarm(self) -> None:
        """Nobody dies any more."""
        for path in self.faults.glob("*/*"):
            path.unlink(missing_ok=True)

    def armed(self) -> list[str]:
        """Points that nobody reached yet."""
        return sorted(f"{path.parent.name} {path.name}" for path in self.faults.glob("*/*"))

    def killed(self) -> list[str]:
        """`service side.point`, in the order of the deaths."""
        log = self.faults / "killed.log"
        return log.read_text().splitlines() if log.exists() else []

    def kill(self, service: str, index: int = 0) -> bool:
        """SIGKILL to one process of a service; whether there was one. `watch` starts it again."""
        pid = self.of(service)[index].process.pid
        if pid is None:
            return False
        self.of(service)[index].process.kill()
        return True

    def back_soon(self, delay: str) -> AbstractContextManager[None]:
        """What waits in this retry queue (`10s`, `1m`) comes back after a moment."""
        return back_soon(self.rabbitmq.management, VHOST, delay, SOON_MS)

    async def parked(self) -> int:
        """Messages that were given up, counted by their queues: the management's figures are some seconds old."""
        broker = RabbitBroker(self.rabbitmq.url(VHOST), "test")
        await broker.connect()
        try:
            return sum([await broker.depth(queue.name) for queue in TOPOLOGY.queues if queue.name.startswith("dead.")])
        finally:
            await broker.close()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Keeps everything running, from a thread, as the supervisor does."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.2):
                self.watch()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()  # it may be starting a server; what it starts after us would stay
