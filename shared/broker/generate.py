"""Writes deploy/rabbitmq from the topology: definitions per generation of RabbitMQ, rabbitmq.conf, the AsyncAPI document.

python -m shared.broker.generate
"""

import json
from pathlib import Path
from typing import Any

from shared.broker.asyncapi import asyncapi
from shared.broker.topology import STAGE_CONSUMER_TIMEOUT, V3_10, V4, WAL_BYTES, definitions, milliseconds

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "rabbitmq"
VHOST = "meshwork"
LOADED_FROM = "/var/lib/rabbitmq/meshwork/definitions.json"  # written by start.sh: the definitions, and the user from the environment

_CONF = """\
# Made by `python -m shared.broker.generate`. What policies can say is in the definitions.

load_definitions = {loaded_from}

# The only place where 3.10 and 3.11 look; from 3.12 on each queue's policy says its own.
# In milliseconds, above the longest time that a worker may hold a message.
consumer_timeout = {consumer_timeout}

# Publishing stops below this, and goes on above it: nothing is lost, jobs wait.
disk_free_limit.absolute = 200MB

# Quorum queues keep in memory what their common log holds until it is full and begun anew: of the default, 512 MiB. In bytes.
raft.wal_max_size_bytes = {wal_bytes}
"""


def files() -> dict[str, str]:
    """Name -> content of every generated file."""
    return {
        "definitions.json": _text(definitions(VHOST, V4)),
        "definitions-3.10.json": _text(definitions(VHOST, V3_10)),
        "rabbitmq.conf": _CONF.format(loaded_from=LOADED_FROM, consumer_timeout=milliseconds(STAGE_CONSUMER_TIMEOUT), wal_bytes=WAL_BYTES),
        "asyncapi.json": _text(asyncapi()),
    }


def main() -> None:
    """Writes them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
