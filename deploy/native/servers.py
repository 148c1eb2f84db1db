"""RabbitMQ, PostgreSQL and MinIO as native processes, each on its own port with its own data folder.

Tests, `make up` without Docker and the chaos runs start them with this module.
"""

import base64
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from deploy.native.management import Management
from deploy.native.process import Process, ServerFailedError, answers, free_port
from shared.broker.topology import STAGE_CONSUMER_TIMEOUT, WAL_BYTES, milliseconds

RABBITMQ_PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_HOW_RABBITMQ = "Debian: apt-get install rabbitmq-server"
POSTGRES_ROOT = Path("/usr/lib/postgresql")
HOST = "127.0.0.1"


class Server(Protocol):
    """A server that can be started, ended and started again on the same data."""

    name: str

    @property
    def running(self) -> bool: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...


def _require(program: Path | str | None, what: str, how: str) -> str:
    if program is None or not Path(program).exists():
        raise ServerFailedError(f"{what} is not installed. {how}")
    return str(program)


class RabbitMq:
    """A RabbitMQ node with the management and Prometheus plugins, loaded with definitions at boot."""

    name = "rabbitmq"

    def __init__(
        self, folder: Path, user: str, password: str, port: int = 0, management_port: int = 0, definitions: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.user, self.password = folder, user, password
        self.port, self.management_port = port or free_port(), management_port or free_port()
        self._definitions = dict(definitions or {"vhosts": [{"name": "/"}]})
        program = _require(RABBITMQ_PROGRAM, "RabbitMQ", _HOW_RABBITMQ)
        self._process = Process([program], folder / "rabbitmq.log", self._environment())

    @staticmethod
    def release() -> str:
        """What is installed, e.g. `3.10.8`. Raises ServerFailedError where nothing is."""
        releases = [folder.name.rpartition("-")[2] for folder in RABBITMQ_PROGRAM.parent.parent.glob("lib/rabbitmq_server-*")]
        if not releases:
            raise ServerFailedError(f"RabbitMQ is not installed. {_HOW_RABBITMQ}")
        return max(releases, key=lambda release: [int(number) for number in release.split(".") if number.isdigit()])

    def url(self, vhost: str) -> str:
        """Where clients connect."""
        return f"amqp://{self.user}:{self.password}@{HOST}:{self.port}/{vhost}"

    @property
    def management(self) -> Management:
        """The operators' console and its API."""
        return Management(f"http://{HOST}:{self.management_port}", self.user, self.password)

    @property
    def running(self) -> bool:
        """Whether the node's process lives."""
        return self._process.pid is not None

    def start(self) -> None:
        """Starts the node; returns when clients can connect."""
        self._write_configuration()
        self._process.start()
        self._process.wait_ready(lambda: answers(self.port) and self._management_answers())

    def stop(self) -> None:
        """Ends the node; its data stays."""
        self._process.stop()

    def kill(self) -> None:
        """Ends the node as a power cut would."""
        self._process.kill()

    def limit_free_disk(self, limit: str) -> None:
        """Takes no publication while less than this is free, e.g. `200MB`; until the node starts again."""
        arguments = [str(RABBITMQ_PROGRAM.with_name("rabbitmqctl")), "set_disk_free_limit", limit]
        env = {name: self._process.env[name] for name in ("HOME", "RABBITMQ_NODENAME", "RABBITMQ_CONF_ENV_FILE", "ERL_EPMD_ADDRESS")}
        subprocess.run(arguments, env={**os.environ, **env}, capture_output=True, timeout=60, check=True)

    def _management_answers(self) -> bool:
        with contextlib.suppress(urllib.error.URLError, OSError):
            self.management.call("GET", "overview")
            return True
        return False

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),  # the Erlang cookie
            "RABBITMQ_NODENAME": f"meshwork_{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": HOST,
            # idle schedulers must not spin on a small machine
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def _write_configuration(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "rabbitmq-env.conf").touch()
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management,rabbitmq_prometheus].\n")
        (self.folder / "definitions.json").write_text(json.dumps(self._with_user()))
        lines = [
            f"listeners.tcp.1 = {HOST}:{self.port}",
            f"management.tcp.ip = {HOST}",
            f"management.tcp.port = {self.management_port}",
            f"prometheus.tcp.port = {free_port()}",
            f"load_definitions = {self.folder / 'definitions.json'}",
            f"consumer_timeout = {milliseconds(STAGE_CONSUMER_TIMEOUT)}",
            "disk_free_limit.absolute = 200MB",
            f"raft.wal_max_size_bytes = {WAL_BYTES}",
        ]
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")

    def _with_user(self) -> dict[str, Any]:
        salt = secrets.token_bytes(4)
        digest = base64.b64encode(salt + hashlib.sha256(salt + self.password.encode()).digest()).decode()
        user = {"name": self.user, "password_hash": digest, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "administrator"}
        everything = {"user": self.user, "configure": ".*", "write": ".*", "read": ".*"}
        permissions = [{**everything, "vhost": vhost["name"]} for vhost in self._definitions["vhosts"]]
        return {**self._definitions, "users": [user], "permissions": permissions}


class Postgres:
    """A PostgreSQL cluster. PostgreSQL refuses to run as root: started by root it runs as the user `postgres`."""

    name = "postgres"

    def __init__(self, folder: Path, user: str, password: str, port: int = 0) -> None:
        self.folder, self.user, self.password = folder, user, password
        self.port = port or free_port()
        versions = sorted((path for path in POSTGRES_ROOT.glob("*/bin/postgres")), key=lambda path: int(path.parts[-3]))
        program = _require(versions[-1] if versions else None, "PostgreSQL", "Debian: apt-get install postgresql")
        self._programs = Path(program).parent
        self._data = folder / "data"
        options = ["-D", str(self._data), "-p", str(self.port), "-h", HOST, "-k", str(folder)]
        # SIGTERM would wait for clients to leave, and a gateway never does.
        self._process = Process([*self._as_user(), program, *options], folder / "postgres.log", cwd=Path("/"), stop_signal=signal.SIGINT)

    def url(self, database: str) -> str:
        """Where SQLAlchemy connects."""
        return f"postgresql+asyncpg://{self.user}:{self.password}@{HOST}:{self.port}/{database}"

    @property
    def running(self) -> bool:
        """Whether the cluster's process lives."""
        return self._process.pid is not None

    def start(self) -> None:
        """Makes the cluster where there is none, and starts it."""
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        self._process.start()
        self._process.wait_ready(lambda: self._run("pg_isready", "-h", HOST, "-p", str(self.port)) == 0)

    def stop(self) -> None:
        """Ends the cluster; its data stays."""
        self._process.stop()

    def kill(self) -> None:
        """Ends the cluster as a power cut would."""
        self._process.kill()

    def create_database(self, name: str) -> None:
        """Makes an empty database."""
        if self._run("createdb", "-h", HOST, "-p", str(self.port), "-U", self.user, name) != 0:
            raise ServerFailedError(f"createdb {name} failed\n{self._process.tail()}")

    def has_database(self, name: str) -> bool:
        """Whether a database of this name exists."""
        return self._run("psql", "-h", HOST, "-p", str(self.port), "-U", self.user, "-d", name, "-c", "select 1") == 0

    def drop_database(self, name: str) -> None:
        """Removes a database, connections or not."""
        self._run("dropdb", "--force", "--if-exists", "-h", HOST, "-p", str(self.port), "-U", self.user, name)

    def _initialise(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        with tempfile.NamedTemporaryFile("w", suffix=".pw") as secret:
            secret.write(self.password)
            secret.flush()
            if os.geteuid() == 0:
                shutil.chown(secret.name, "postgres")
            arguments = [
                "-D",
                str(self._data),
                "-U",
                self.user,
                "-A",
                "scram-sha-256",
                f"--pwfile={secret.name}",
                "-E",
                "UTF8",
                "--no-sync",
            ]
            if self._run("initdb", *arguments) != 0:
                raise ServerFailedError(f"initdb failed in {self._data}\n{self._process.tail()}")

    def _run(self, program: str, *arguments: str) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "postgres.log").open("ab") as log:
            argv = [*self._as_user(), str(self._programs / program), *arguments]
            env = {**os.environ, "PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "5"}
            return subprocess.run(argv, env=env, cwd="/", stdout=log, stderr=log, timeout=120, check=False).returncode

    @staticmethod
    def _as_user() -> list[str]:
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"] if os.geteuid() == 0 else []


class Minio:
    """A MinIO server with its console."""

    name = "minio"

    def __init__(self, folder: Path, access_key: str, secret_key: str, port: int = 0, console_port: int = 0) -> None:
        self.folder, self.access_key, self.secret_key = folder, access_key, secret_key
        self.port, self.console_port = port or free_port(), console_port or free_port()
        program = _require(find_minio(), "MinIO", "Run `make servers`, or put a `minio` on the PATH")
        addresses = ["--address", f"{HOST}:{self.port}", "--console-address", f"{HOST}:{self.console_port}"]
        credentials = {"MINIO_ROOT_USER": access_key, "MINIO_ROOT_PASSWORD": secret_key, "MINIO_BROWSER": "on", "MINIO_UPDATE": "off"}
        self._process = Process([program, "server", str(folder / "data"), *addresses], folder / "minio.log", credentials)

    @property
    def endpoint(self) -> str:
        """Where S3 clients connect."""
        return f"http://{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._process.pid is not None

    def start(self) -> None:
        """Starts the server; returns when it serves."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        self._process.start()
        self._process.wait_ready(self._is_live)

    def stop(self) -> None:
        """Ends the server; its data stays."""
        self._process.stop()

    def kill(self) -> None:
        """Ends the server as a power cut would."""
        self._process.kill()

    def _is_live(self) -> bool:
        url = f"{self.endpoint}/minio/health/ready"
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
        return False


def find_minio() -> str | None:
    """The `minio` program: on the PATH, or where `go install` puts it."""
    go_folder = Path(os.environ.get("GOBIN") or Path(os.environ.get("GOPATH") or Path.home() / "go") / "bin")
    installed = go_folder / "minio"
    return shutil.which("minio") or (str(installed) if installed.exists() else None)
