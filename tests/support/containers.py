"""The three servers as containers, for machines with Docker. Images are pinned; MinIO's only live on quay.io."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.native.process import answers

RABBITMQ_IMAGE = "rabbitmq:4-management"
POSTGRES_IMAGE = "postgres:17-bookworm"
MINIO_IMAGE = "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z"


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
    with _container(RABBITMQ_IMAGE, environment, [5672, 15672]) as ports:
        yield f"amqp://meshwork:{password}@127.0.0.1:{ports[5672]}", f"http://127.0.0.1:{ports[15672]}"


@contextmanager
def postgres_container(password: str) -> Iterator[str]:
    """The URL of a PostgreSQL database."""
    environment = {"POSTGRES_USER": "meshwork", "POSTGRES_PASSWORD": password, "POSTGRES_DB": "postgres"}
    with _container(POSTGRES_IMAGE, environment, [5432]) as ports:
        yield f"postgresql+asyncpg://meshwork:{password}@127.0.0.1:{ports[5432]}/postgres"


@contextmanager
def minio_container(password: str) -> Iterator[str]:
    """The endpoint of a MinIO."""
    environment = {"MINIO_ROOT_USER": "meshwork", "MINIO_ROOT_PASSWORD": password}
    with _container(MINIO_IMAGE, environment, [9000], "server /data") as ports:
        yield f"http://127.0.0.1:{ports[9000]}"


@contextmanager
def _container(image: str, environment: dict[str, str], ports: list[int], command: str = "") -> Iterator[dict[int, int]]:
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(image).with_exposed_ports(*ports)
    for name, value in environment.items():
        container = container.with_env(name, value)
    with container.with_command(command) if command else container as running:
        exposed = {port: int(running.get_exposed_port(port)) for port in ports}
        _wait_for(list(exposed.values()))
        yield exposed


def _wait_for(ports: list[int], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not all(answers(port) for port in ports):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer on ports {ports}")
        time.sleep(0.5)


def _docker(*arguments: str, timeout_s: float) -> bool:
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, timeout=timeout_s, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
