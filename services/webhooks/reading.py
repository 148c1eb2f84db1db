"""What a delivery asks for, if anybody can read it."""

import json

from pydantic import ValidationError

from shared.contracts.base import SCHEMA_VERSION
from shared.contracts.messages import WebhookMessage
from shared.contracts.routing import HEADER_NEWER
from shared.ports import Delivery
from shared.runtime.reading import MAX_NEWER, Newer, Unreadable, count_header, first_fault


def read_message(delivery: Delivery) -> WebhookMessage | Newer | Unreadable:
    """The message, or why there is none."""
    try:
        raw = json.loads(delivery.body)
    except (ValueError, RecursionError):
        return Unreadable("the message is not JSON")
    if not isinstance(raw, dict):
        return Unreadable("the message is not an object")
    version = raw.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        return _newer(delivery, version)
    try:
        return WebhookMessage.model_validate_json(delivery.body)  # not `raw`: json.loads takes halves of surrogate pairs
    except ValidationError as error:
        return Unreadable(f"the message is no webhook message: {first_fault(error)}")


def _newer(delivery: Delivery, version: int) -> Newer | Unreadable:
    times = count_header(delivery, HEADER_NEWER)
    if times >= MAX_NEWER:
        return Unreadable(f"schema version {version} is newer than {SCHEMA_VERSION}, and no service that reads it came")
    return Newer(times)
