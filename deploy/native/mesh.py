"""The whole mesh as processes of one machine: three servers, the gateway, the webhooks service, and workers per stage."""

import contextlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.native.process import Process, ServerFailedError, free_port, is_ready
from deploy.native.servers import HOST, Minio, Postgres, RabbitMq, Server
from deploy.secrets import load_or_make
from shared.broker.topology import definitions, generation
from shared.contracts.routing import STAGES

VHOST = "meshwork"
DATABASE = "meshwork"
ROOT = Path(__file__).resolve().parents[2]
SCALABLE = (*STAGES, "webhooks")
RESTART_PAUSE_S = 2.0  # a service that dies at once must not spin


@dataclass(frozen=True)
class Ports:
    """Ports on 127.0.0.1."""

    api: int = field(default_factory=free_port)
    amqp: int = field(default_factory=free_port)
    management: int = field(default_factory=free_port)
    postgres: int = field(default_factory=free_port)
    s3: int = field(default_factory=free_port)
    console: int = field(default_factory=free_port)


@dataclass
class Replica:
    """One process of a service. `due` is when it may be started again."""

    service: str
    number: int
    process: Process
    health_port: int
    due: float = 0.0

    def is_ready(self) -> bool:
        """Whether it says so."""
        return is_ready(f"http://{HOST}:{self.health_port}")


class Mesh:
    """Starts, watches, scales and ends everything. `environment` adds settings for the gateway and the services."""

    def __init__(self, folder: Path, ports: Ports, environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.ports = folder, ports
        passwords = {
            name: secrets.token_urlsafe(18) for name in ("MESHWORK_AMQP_PASSWORD", "MESHWORK_DATABASE_PASSWORD", "MESHWORK_S3_SECRET_KEY")
        }
        self.secrets = load_or_make(folder / "secrets.env", passwords)
        amqp, database, s3 = (self.secrets[name] for name in passwords)
        topology = definitions(VHOST, generation(RabbitMq.release()))
        self.rabbitmq = RabbitMq(folder / "rabbitmq", "meshwork", amqp, ports.amqp, ports.management, topology)
        self.postgres = Postgres(folder / "postgres", "meshwork", database, ports.postgres)
        self.minio = Minio(folder / "minio", "meshwork", s3, ports.s3, ports.console)
        self.replicas: list[Replica] = []
        self._environment = {**self._settings(), **(environment or {})}

    @property
    def api_url(self) -> str:
        """Where callers reach the gateway."""
        return f"http://{HOST}:{self.ports.api}"

    def start(self, scale: Mapping[str, int] | None = None) -> None:
        """Starts the servers, then every service; returns when the gateway and every worker are ready."""
        for server in self.servers():
            server.start()
        if not self.postgres.has_database(DATABASE):
            self.postgres.create_database(DATABASE)
        self._add("gateway")
        for service in SCALABLE:
            self.scale(service, (scale or {}).get(service, 1))
        self.wait_ready()

    def servers(self) -> tuple[Server, ...]:
        """RabbitMQ, PostgreSQL and MinIO."""
        return self.rabbitmq, self.postgres, self.minio

    def of(self, service: str) -> list[Replica]:
        """The replicas of a service."""
        return [replica for replica in self.replicas if replica.service == service]

    def scale(self, service: str, count: int) -> None:
        """Starts or ends replicas until there are `count`. A replica that ends hands its work back."""
        if service not in SCALABLE or count < 0:
            raise ValueError(f"cannot scale {service} to {count}; services: {', '.join(SCALABLE)}")
        while len(self.of(service)) < count:
            self._add(service)
        for replica in self.of(service)[count:]:
            self.replicas.remove(replica)
            replica.process.stop()

    def watch(self) -> None:
        """Starts again what has ended; called every second by the supervisor."""
        for server in self.servers():
            if not server.running:
                with contextlib.suppress(ServerFailedError):
                    server.start()
        for replica in self.replicas:
            if replica.process.pid is None and time.monotonic() >= replica.due:
                replica.due = time.monotonic() + RESTART_PAUSE_S
                replica.process.start()

    def is_ready(self) -> bool:
        """Whether the gateway and every worker say that they are."""
        return all(replica.is_ready() for replica in self.replicas)

    def wait_ready(self, timeout_s: float = 120) -> None:
        """Returns when everything is ready; raises ServerFailedError with a log's tail otherwise."""
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if time.monotonic() > deadline:
                late = [replica for replica in self.replicas if not replica.is_ready()]
                self.stop()
                raise ServerFailedError(f"not ready: {', '.join(r.service for r in late)}\n{late[0].process.tail()}")
            self.watch()
            time.sleep(0.2)

    def stop(self) -> None:
        """Ends the services (which hand their work back), then the servers. Data stays."""
        for replica in self.replicas:
            replica.process.terminate()
        for replica in self.replicas:
            replica.process.stop()
        self.replicas.clear()
        for server in self.servers():
            server.stop()

    def destroy(self) -> None:
        """Ends everything at once and removes the data."""
        for replica in self.replicas:
            replica.process.kill()
        for server in self.servers():
            server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, service: str) -> list[str]:
        """What runs one process of a service."""
        return [sys.executable, "-m", "gateway" if service == "gateway" else f"services.{service}"]

    def _add(self, service: str) -> None:
        number = max((replica.number for replica in self.of(service)), default=0) + 1
        health_port = self.ports.api if service == "gateway" else free_port()
        env = {**self._environment, "MESHWORK_HEALTH_PORT": str(health_port)}
        log = self.folder / "logs" / f"{service}-{number}.log"
        process = Process(self.command(service), log, env, ROOT)
        process.start()
        self.replicas.append(Replica(service, number, process, health_port))

    def _settings(self) -> dict[str, str]:
        work = self.folder / "work"
        work.mkdir(parents=True, exist_ok=True)
        return {
            **{name: value for name, value in os.environ.items() if name.startswith("MESHWORK_")},
            **{name: value for name, value in self.secrets.items() if name not in {"MESHWORK_AMQP_PASSWORD", "MESHWORK_DATABASE_PASSWORD"}},
            "MESHWORK_AMQP_URL": self.rabbitmq.url(VHOST),
            "MESHWORK_DATABASE_URL": self.postgres.url(DATABASE),
            "MESHWORK_S3_ENDPOINT": self.minio.endpoint,
            "MESHWORK_S3_ACCESS_KEY": self.minio.access_key,
            "MESHWORK_PUBLIC_URL": os.environ.get("MESHWORK_PUBLIC_URL", self.api_url),
            "MESHWORK_HOST": HOST,
            "MESHWORK_PORT": str(self.ports.api),
            "MESHWORK_WORK_DIR": str(work),
        }
