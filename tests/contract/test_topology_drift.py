"""What deploy/rabbitmq holds is what the topology module says."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from shared.broker.generate import FOLDER, files
from shared.broker.topology import TOPOLOGY


@pytest.mark.parametrize("name", files())
def test_generated_files_are_up_to_date(name: str) -> None:
    """Run `python -m shared.broker.generate` after a change of the topology or of a message."""
    assert (FOLDER / name).read_text(encoding="utf-8") == files()[name]


@pytest.mark.parametrize("name", ["definitions.json", "definitions-3.10.json"])
def test_definitions_can_be_given_a_user_at_start(name: str) -> None:
    """They hold no user and no secret; start.sh puts the user behind the first line."""
    text = files()[name]

    assert text.startswith("{\n")
    assert set(json.loads(text)) == {"vhosts", "policies", "exchanges", "queues", "bindings"}


def test_every_exchange_and_queue_is_documented() -> None:
    """A reader of the AsyncAPI document sees all that the management UI shows."""
    channels = json.loads(files()["asyncapi.json"])["channels"]

    assert {channel["address"] for channel in channels.values()} == {*TOPOLOGY.exchanges, *(queue.name for queue in TOPOLOGY.queues)}


def test_the_document_refers_to_nothing_that_is_missing() -> None:
    """Every $ref resolves within the document."""
    document = json.loads(files()["asyncapi.json"])

    for reference in references(document):
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)
