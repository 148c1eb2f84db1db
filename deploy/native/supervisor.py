"""The supervisor of the native mesh: a process in the background that keeps everything running, and the verbs that talk to it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from deploy.native.mesh import ROOT, SCALABLE, Mesh, Ports
from deploy.native.process import ServerFailedError, answers, free_port

START_TIMEOUT_S = 240
PREFERRED = {"api": 8000, "amqp": 5672, "management": 15672, "postgres": 5432, "s3": 9000, "console": 9001}


class Folder:
    """Where the mesh keeps its data and what it tells about itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pid, self.scale, self.state, self.log = (
            path / "supervisor.pid",
            path / "scale.json",
            path / "state.json",
            path / "logs/supervisor.log",
        )

    def supervisor(self) -> int | None:
        """The process id of the supervisor that runs, if any."""
        try:
            pid = int(self.pid.read_text())
            return pid if b"deploy.native" in Path(f"/proc/{pid}/cmdline").read_bytes() else None
        except (OSError, ValueError):
            return None

    def wanted(self) -> dict[str, int]:
        """Replicas per service, as `scale` last set them."""
        return json.loads(self.scale.read_text()) if self.scale.exists() else dict.fromkeys(SCALABLE, 1)

    def ports(self) -> Ports:
        """The ports of the last start, so that data and links stay good; the usual ones where they are free."""
        if self.state.exists():
            return Ports(**json.loads(self.state.read_text())["ports"])
        chosen = {name: free_port() if answers(port) else port for name, port in PREFERRED.items()}
        return Ports(**{**chosen, "api": int(os.environ.get("MESHWORK_PORT", chosen["api"]))})


def up(folder: Folder) -> None:
    """Starts the supervisor in the background, waits until everything is ready, and prints where it is."""
    if folder.supervisor() is None:
        folder.log.parent.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "deploy.native", "--folder", str(folder.path), "supervise"]
        with folder.log.open("ab") as log:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
        _wait_until_ready(folder, child)
    print_urls(folder)


def _wait_until_ready(folder: Folder, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (folder.state.exists() and json.loads(folder.state.read_text()).get("ready") == child.pid):
        if child.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(folder.log.read_text(errors="replace").splitlines()[-30:])
            raise ServerFailedError(f"the mesh did not start:\n{tail}")
        time.sleep(0.3)


def print_urls(folder: Folder) -> None:
    """Tells where the API, the docs, RabbitMQ's management and MinIO's console are, and where the secrets lie."""
    ports = folder.ports()
    print(f"API         http://127.0.0.1:{ports.api}/api/v1")
    print(f"docs        http://127.0.0.1:{ports.api}/docs")
    print(f"RabbitMQ    http://127.0.0.1:{ports.management}   (user meshwork, MESHWORK_AMQP_PASSWORD)")
    print(f"MinIO       http://127.0.0.1:{ports.console}   (user meshwork, MESHWORK_S3_SECRET_KEY)")
    print(f"secrets     {folder.path / 'secrets.env'}")
    print(f"replicas    {' '.join(f'{service}={count}' for service, count in folder.wanted().items())}")


def supervise(folder: Folder) -> None:
    """Runs the mesh until SIGTERM: starts again what ends, and follows the wanted number of replicas."""
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ending.append(number))
    folder.pid.write_text(str(os.getpid()))
    mesh = Mesh(folder.path, folder.ports())
    _write_state(folder, mesh, ready=None)
    try:
        mesh.start(folder.wanted())
        _write_state(folder, mesh, ready=os.getpid())
        while not ending:
            mesh.watch()
            for service, count in folder.wanted().items():
                mesh.scale(service, count)
            _write_state(folder, mesh, ready=os.getpid())
            time.sleep(1)
    finally:
        mesh.stop()
        folder.pid.unlink(missing_ok=True)


def _write_state(folder: Folder, mesh: Mesh, ready: int | None) -> None:
    services = [{"service": r.service, "number": r.number, "pid": r.process.pid, "health_port": r.health_port} for r in mesh.replicas]
    text = json.dumps({"ports": asdict(mesh.ports), "ready": ready, "services": services}, indent=1)
    partial = folder.state.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(folder.state)


def down(folder: Folder) -> None:
    """Ends the mesh; its data stays."""
    pid = folder.supervisor()
    if pid is None:
        print("the mesh is not running")
        return
    os.kill(pid, signal.SIGTERM)
    while folder.supervisor() is not None:
        time.sleep(0.2)


def scale(folder: Folder, wishes: list[str]) -> None:
    """Sets the replicas of services, `mvs=3`, and waits until they run."""
    if folder.supervisor() is None:
        raise ServerFailedError("the mesh is not running; start it with `make up`")
    wanted = {**folder.wanted(), **{service: int(count) for service, count in (wish.split("=", 1) for wish in wishes)}}
    if unknown := set(wanted) - set(SCALABLE):
        raise ServerFailedError(f"no such service: {', '.join(sorted(unknown))}; there are {', '.join(SCALABLE)}")
    folder.scale.write_text(json.dumps(wanted))
    while _running(folder) != {service: count for service, count in wanted.items() if count}:
        time.sleep(0.3)
    print_urls(folder)


def _running(folder: Folder) -> dict[str, int]:
    names = [s["service"] for s in json.loads(folder.state.read_text())["services"] if s["pid"] and s["service"] != "gateway"]
    return {name: names.count(name) for name in names}


def logs(folder: Folder, services: list[str]) -> None:
    """Follows the logs of all services, or of those named."""
    files = sorted(path for path in (folder.path / "logs").glob("*.log") if not services or path.name.rsplit("-", 1)[0] in services)
    os.execvp("tail", ["tail", "-n", "50", "-F", *map(str, files)])  # noqa: S606 - replaces this process, fixed program
