"""Fixtures that every test may use: the three real servers, and an environment without our variables."""

import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support import servers
from tests.support.servers import BrokerServer, S3Server, unique


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--chaos full`: every fault point of every stage, and a thousand jobs in the storm."""
    parser.addoption("--chaos", choices=["quick", "full"], default="quick", help="how much of tests/chaos is run")


class FolderScheduling(LoadScopeScheduling):
    """With `-n`: the tests of one folder run in one process, as they share a mesh or a model; folders begin in their order."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0].rpartition("/")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FolderScheduling:
    """Slow folders come early, whatever their number of tests."""
    config.option.loadscopereorder = False
    return FolderScheduling(config, log)


def pytest_sessionstart() -> None:
    """Who ends the tests by SIGTERM, as `timeout` does, leaves no servers behind: as after Ctrl+C, fixtures clear away."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what the person who runs it has set."""
    for name in list(os.environ):
        if name.startswith("MESHWORK_") and not name.startswith("MESHWORK_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[BrokerServer]:
    """A real RabbitMQ."""
    with servers.rabbitmq() as server:
        yield server


@pytest.fixture(scope="module")
def amqp_url(rabbitmq_server: BrokerServer) -> Iterator[str]:
    """A fresh virtual host with our policies on a real RabbitMQ."""
    from shared.broker.topology import TOPOLOGY
    from tests.support.brokers import make_vhost

    vhost = unique("test")
    make_vhost(rabbitmq_server, vhost, TOPOLOGY)
    yield rabbitmq_server.url(vhost)
    rabbitmq_server.management.drop_vhost(vhost)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real MinIO."""
    with servers.s3() as server:
        yield server


@pytest.fixture
def s3_bucket() -> str:
    """The name of a bucket that nobody else uses."""
    return unique("bucket").replace("_", "-")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a real PostgreSQL."""
    with servers.postgres() as url:
        yield url


@pytest.fixture(scope="module")
async def postgres_url(postgres_server: str) -> AsyncIterator[str]:
    """A fresh database on a real PostgreSQL."""
    async with servers.fresh_database(postgres_server) as url:
        yield url
