"""What a delivery asks for, if anybody can read it."""

import json
from dataclasses import dataclass

from pydantic import ValidationError

from shared.contracts.base import SCHEMA_VERSION
from shared.contracts.messages import SPLIT_VERSION, StageMessage
from shared.contracts.routing import HEADER_NEWER
from shared.ports import Delivery

MAX_NEWER = 60  # put back once a minute, for an hour: then the upgrade did not happen


@dataclass(frozen=True)
class Unreadable:
    """Nobody can read it; why."""

    reason: str


@dataclass(frozen=True)
class Newer:
    """It is for a worker of a newer schema version; how often it was put back before."""

    times: int


ReadMessage = StageMessage | Newer | Unreadable


def read_message(delivery: Delivery, stage: str) -> ReadMessage:
    """The message, or why there is none."""
    try:
        raw = json.loads(delivery.body)
        version = raw.get("schema_version", SCHEMA_VERSION)
        if isinstance(version, int) and version > SPLIT_VERSION:
            return _newer(delivery, version)
        message = StageMessage.model_validate_json(delivery.body)  # not `raw`: json.loads takes halves of surrogate pairs
    except ValidationError as error:
        return Unreadable(f"the message is no stage message: {first_fault(error)}")
    except (ValueError, AttributeError, RecursionError):
        return Unreadable("the message is not a JSON object")
    return _suitable(message, stage)


def first_fault(error: ValidationError) -> str:
    """Where and what: `job_id: Field required`."""
    first = error.errors(include_input=False, include_url=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def _suitable(message: StageMessage, stage: str) -> StageMessage | Unreadable:
    if not 0 <= message.position < len(message.slip.steps):
        return Unreadable(f"the slip has no step {message.position}")
    if message.step.stage != stage:
        return Unreadable(f"step {message.step.name} is for stage {message.step.stage}, not for {stage}")
    return message


def count_header(delivery: Delivery, name: str) -> int:
    """A counter that travels in the headers; 0 where it is not there or not a number."""
    try:
        return max(int(delivery.headers.get(name, 0)), 0)
    except (ValueError, TypeError, OverflowError):  # AMQP has nothing, infinity and tables too
        return 0


def _newer(delivery: Delivery, version: int) -> Newer | Unreadable:
    times = count_header(delivery, HEADER_NEWER)
    if times >= MAX_NEWER:
        return Unreadable(f"schema version {version} is newer than {SPLIT_VERSION}, and no worker that reads it came")
    return Newer(times)
