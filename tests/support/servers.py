"""The three real servers for tests: named by a variable, else from Docker, else as native processes.

A missing server fails the test; nothing is skipped.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import asyncpg

from deploy.native.management import Management
from deploy.native.servers import Minio, Postgres, RabbitMq
from tests.support.containers import images_are_available, minio_container, postgres_container, rabbitmq_container

AMQP_VARIABLE = "MESHWORK_TEST_AMQP_URL"  # amqp://user:password@host:port of an administrator
MANAGEMENT_VARIABLE = "MESHWORK_TEST_RABBITMQ_MANAGEMENT_URL"  # http://host:15672
POSTGRES_VARIABLE = "MESHWORK_TEST_POSTGRES_URL"  # postgresql+asyncpg://user:password@host:port/any
S3_VARIABLE = "MESHWORK_TEST_S3_URL"  # http://access:secret@host:port

SECRET = "tests-only"
NativeServer = TypeVar("NativeServer", RabbitMq, Postgres, Minio)


@dataclass(frozen=True)
class S3Server:
    """An S3 endpoint with credentials that may make buckets."""

    endpoint: str
    access_key: str
    secret_key: str


class BrokerServer(Protocol):
    """A RabbitMQ that tests make virtual hosts on."""

    def url(self, vhost: str) -> str: ...

    @property
    def management(self) -> Management: ...


@dataclass(frozen=True)
class NamedBroker:
    """A RabbitMQ that runs already."""

    base_url: str
    management: Management

    def url(self, vhost: str) -> str:
        return f"{self.base_url}/{vhost}"


@contextmanager
def rabbitmq() -> Iterator[BrokerServer]:
    """A RabbitMQ for as long as the context lasts."""
    if url := os.environ.get(AMQP_VARIABLE):
        parts = urlsplit(url)
        management_url = os.environ.get(MANAGEMENT_VARIABLE, f"http://{parts.hostname}:15672")
        yield NamedBroker(url.rstrip("/"), Management(management_url, parts.username or "guest", parts.password or "guest"))
    elif docker_can_pull():
        with rabbitmq_container(SECRET) as (base_url, management_url):
            yield NamedBroker(base_url, Management(management_url, "meshwork", SECRET))
    else:
        with _running(RabbitMq(_folder(), "meshwork", SECRET)) as server:
            yield server


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL database whose user may make others."""
    if url := os.environ.get(POSTGRES_VARIABLE):
        yield url
    elif docker_can_pull():
        with postgres_container(SECRET) as url:
            yield url
    else:
        with _running(Postgres(_folder(), "meshwork", SECRET)) as server:
            yield server.url("postgres")


@asynccontextmanager
async def fresh_database(server_url: str) -> AsyncIterator[str]:
    """The URL of an empty database on the PostgreSQL of `postgres()`, which is dropped afterwards."""
    name = unique("test")
    connection = await asyncpg.connect(server_url.replace("+asyncpg", ""), timeout=10)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
        yield server_url.removesuffix(urlsplit(server_url).path) + f"/{name}"
    finally:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await connection.close()


@contextmanager
def s3() -> Iterator[S3Server]:
    """An S3 server for as long as the context lasts."""
    if url := os.environ.get(S3_VARIABLE):
        parts = urlsplit(url)
        yield S3Server(f"{parts.scheme}://{parts.hostname}:{parts.port}", parts.username or "", parts.password or "")
    elif docker_can_pull():
        with minio_container(SECRET) as endpoint:
            yield S3Server(endpoint, "meshwork", SECRET)
    else:
        with _running(Minio(_folder(), "meshwork", SECRET)) as server:
            yield S3Server(server.endpoint, "meshwork", SECRET)


@cache
def docker_can_pull() -> bool:
    """Whether a Docker daemon answers and has, or can fetch, the images."""
    if not shutil.which("docker"):
        return False
    return images_are_available()


def unique(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}_{secrets.token_hex(4)}"


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="meshwork-test-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user
    return folder


@contextmanager
def _running(server: NativeServer) -> Iterator[NativeServer]:
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(server.folder, ignore_errors=True)
