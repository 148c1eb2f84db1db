"""The three servers as containers, for machines with Docker. Images have tags; MinIO's only live on quay.io."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

RABBITMQ_IMAGE = "rabbitmq:4-management"
POSTGRES_IMAGE = "postgres:17-bookworm"
MINIO_IMAGE = "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z"

# Asked inside the container: on the host, Docker's own proxy takes connections before the server does.
RABBITMQ_IS_READY = ["bash", "-c", "</dev/tcp/127.0.0.1/5672 && </dev/tcp/127.0.0.1/15672"]
POSTGRES_IS_READY = ["pg_isready", "-h", "127.0.0.1", "-U", "meshwork"]
MINIO_IS_READY = ["curl", "-fsS", "http://127.0.0.1:9000/minio/health/ready"]
START_S = 120.0


def images_are_available() -> bool:
    """Whether the daemon answers, and has each image or can pull it."""
    return _docker("info", timeout_s=10) and all(
        _docker("image", "inspect", image, timeout_s=10) or _docker("pull", "--quiet", image, timeout_s=600)
        for image in (RABBITMQ_IMAGE, POSTGRES_IMAGE, MINIO_IMAGE)
    )


@contextmanager
def rabbitmq_container(password: str) -> Iterator[tuple[str, str]]:
    """The AMQP base URL and the management URL of a RabbitMQ."""
    environment = {"RABBITMQ_DEFAULT_USER": "meshwork", "RABBITMQ_DEFAULT_PASS": password}
    with _container(RABBITMQ_IMAGE, environment, [5672, 15672], RABBITMQ_IS_READY) as ports:
        yield f"amqp://meshwork:{password}@127.0.0.1:{ports[5672]}", f"http://127.0.0.1:{ports[15672]}"


@contextmanager
def postgres_container(password: str) -> Iterator[str]:
    """The URL of a PostgreSQL database."""
    environment = {"POSTGRES_USER": "meshwork", "POSTGRES_PASSWORD": password, "POSTGRES_DB": "postgres"}
    with _container(POSTGRES_IMAGE, environment, [5432], POSTGRES_IS_READY) as ports:
        yield f"postgresql+asyncpg://meshwork:{password}@127.0.0.1:{ports[5432]}/postgres"


@contextmanager
def minio_container(password: str) -> Iterator[str]:
    """The endpoint of a MinIO."""
    environment = {"MINIO_ROOT_USER": "meshwork", "MINIO_ROOT_PASSWORD": password}
    with _container(MINIO_IMAGE, environment, [9000], MINIO_IS_READY, "server /data") as ports:
        yield f"http://127.0.0.1:{ports[9000]}"


@contextmanager
def _container(
    image: str, environment: dict[str, str], ports: list[int], is_ready: list[str], command: str = ""
) -> Iterator[dict[int, int]]:
    # Its reaper is one more image to be had; the context stops the container.
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(image).with_exposed_ports(*ports)
    for name, value in environment.items():
        container = container.with_env(name, value)
    with container.with_command(command) if command else container as running:
        _wait_for(running, is_ready)
        yield {port: int(running.get_exposed_port(port)) for port in ports}


def _wait_for(container: "DockerContainer", is_ready: list[str]) -> None:
    deadline = time.monotonic() + START_S
    while container.exec(is_ready).exit_code != 0:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{is_ready[0]} says no in {container.image} after {START_S:.0f} s")
        time.sleep(0.5)


def _docker(*arguments: str, timeout_s: float) -> bool:
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, timeout=timeout_s, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
