"""The native mesh with stand-ins, fault points in every process, and a proxy before each server."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.native.mesh import Mesh, Ports
from tests.chaos.fault_points import FOLDER_VARIABLE
from tests.support.proxy import TcpProxy

SERVERS = ("amqp", "postgres", "s3")


class Proxies:
    """One TcpProxy per server, on an event loop of their own. `with Proxies(ports) as proxies: proxies.cut("amqp")`."""

    def __init__(self, ports: Ports) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._proxies = {name: TcpProxy("127.0.0.1", getattr(ports, name)) for name in SERVERS}

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
        """Where the server is reached through its proxy."""
        return self._proxies[server].port

    def do(self, server: str, action: str) -> None:
        """`cut`, `refuse`, `accept`, `stall`, `resume` or `half_close`; `slow` and `fast` set the delay of every chunk."""
        proxy = self._proxies[server]
        if action in {"slow", "fast"}:
            proxy.delay_s = 0.05 if action == "slow" else 0.0
        else:
            self._loop.call_soon_threadsafe(getattr(proxy, action))


class ChaosMesh(Mesh):
    """Every process is started by tests.chaos.process and reaches its servers through `proxies`."""

    def __init__(self, folder: Path) -> None:
        ports = Ports()
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        self.proxies = Proxies(ports)
        settings = {FOLDER_VARIABLE: str(self.faults), "MESHWORK_ALLOWED_PRIVATE_NETWORKS": "127.0.0.1/32", "MESHWORK_IN_FLIGHT": "64"}
        super().__init__(folder, ports, settings)
        self.proxies.open()
        for variable, server in (("AMQP_URL", "amqp"), ("DATABASE_URL", "postgres"), ("S3_ENDPOINT", "s3")):
            url = self._environment[f"MESHWORK_{variable}"]
            self._environment[f"MESHWORK_{variable}"] = url.replace(f":{getattr(ports, server)}", f":{self.proxies.port(server)}")

    def command(self, service: str) -> list[str]:
        """With fault points; stages are stand-ins."""
        return [sys.executable, "-m", "tests.chaos.process", service]

    def destroy(self) -> None:
        """And the proxies."""
        super().destroy()
        self.proxies.close()

    def arm(self, service: str, *points: str) -> None:
        """The next process of the service that reaches one of these points dies there, once for each."""
        (self.faults / service).mkdir(exist_ok=True)
        for point in points:
            (self.faults / service / point).touch()

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
            thread.join(60)
