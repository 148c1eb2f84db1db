"""A RabbitMQ node of a test's own, started by deploy/rabbitmq/start.sh as the containers do."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from deploy.native.management import Management
from deploy.native.process import Process, answers, free_port
from deploy.native.servers import RABBITMQ_PROGRAM
from shared.broker.generate import FOLDER, LOADED_FROM

PASSWORD = 'it\'s "quoted" & $more/é'


class Node:
    """A RabbitMQ node in a folder, configured as deployed and by `more` lines; with these `arguments` of Erlang in place of ours."""

    def __init__(self, folder: Path, more: str = "", arguments: str = "") -> None:
        self.port, self.management_port = free_port(), free_port()
        configuration = (FOLDER / "rabbitmq.conf").read_text().replace(LOADED_FROM, str(folder / "definitions.json"))
        ports = (
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nmanagement.tcp.port = {self.management_port}\nprometheus.tcp.port = {free_port()}\n"
        )
        (folder / "rabbitmq.conf").write_text(configuration + ports + more)
        environment = {
            "HOME": str(folder),
            "PATH": f"{RABBITMQ_PROGRAM.parent}:{os.environ['PATH']}",
            "MESHWORK_RABBITMQ_FOLDER": str(folder),
            "MESHWORK_AMQP_USER": "meshwork",
            "MESHWORK_AMQP_PASSWORD": PASSWORD,
            "RABBITMQ_NODENAME": f"restart_{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": arguments,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        self._log = folder / "log" / f"{environment['RABBITMQ_NODENAME']}.log"
        self.process = Process([str(FOLDER / "start.sh")], folder / "node.log", environment)

    def start(self) -> None:
        """Returns when it takes connections, and its console answers."""
        self.process.start()
        self.process.wait_ready(lambda: answers(self.port) and self._console_answers())

    def _console_answers(self) -> bool:
        with suppress(OSError):
            self.management.call("GET", "overview")
            return True
        return False

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"amqp://meshwork:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/meshwork"

    @property
    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text()

    @property
    def management(self) -> Management:
        """The operators' console and its API."""
        return Management(f"http://127.0.0.1:{self.management_port}", "meshwork", PASSWORD)


@contextmanager
def running_node(more: str = "", arguments: str = "") -> Iterator[Node]:
    """Started as the containers do."""
    folder = Path(tempfile.mkdtemp(prefix="meshwork-test-"))
    folder.chmod(0o755)
    node = Node(folder, more, arguments)
    try:
        node.start()
        yield node
    finally:
        node.process.kill()
        shutil.rmtree(folder, ignore_errors=True)
