"""Headers of what we publish: job and step, W3C trace context, CloudEvents attributes (AMQP binding, prefix `cloudEvents_`)."""

import os
import re
from collections.abc import Callable
from datetime import datetime

from shared.contracts.routing import HEADER_JOB, HEADER_STEP, HEADER_TRACEPARENT
from shared.ports import Headers

CLOUD_EVENTS = "cloudEvents_"
RandomBytes = Callable[[int], bytes]

_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED = "01"


def new_traceparent(random_bytes: RandomBytes = os.urandom) -> str:
    """The `traceparent` of a trace that starts here."""
    return f"00-{random_bytes(16).hex()}-{random_bytes(8).hex()}-{_SAMPLED}"


def child_traceparent(parent: str | int | None, random_bytes: RandomBytes = os.urandom) -> str:
    """A new span in the parent's trace; a new trace where there is no parent, or one that is not well-formed."""
    match = _TRACEPARENT.fullmatch(str(parent))
    if match is None:
        return new_traceparent(random_bytes)
    return f"00-{match[1]}-{random_bytes(8).hex()}-{match[3]}"


def trace_id(headers: Headers) -> str | None:
    """The 32 hex digits that all spans of a trace share; None where a message carries no well-formed trace."""
    match = _TRACEPARENT.fullmatch(str(headers.get(HEADER_TRACEPARENT)))
    return match[1] if match else None


def cloud_event(event_type: str, source: str, subject: str, event_id: str, time: datetime | None = None) -> dict[str, str | int]:
    """CloudEvents 1.0 attributes. `source` names the process kind (`/meshwork/sfm`), `subject` what it is about (`<job>/<step>`)."""
    attributes = {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": event_type,
        "subject": subject,
        "datacontenttype": "application/json",
    }
    if time is not None:
        attributes["time"] = time.isoformat()
    return {CLOUD_EVENTS + name: value for name, value in attributes.items()}


def message_headers(
    event_type: str,
    source: str,
    message_id: str,
    job_id: str,
    step: str | None = None,
    parent: Headers | None = None,
    time: datetime | None = None,
    random_bytes: RandomBytes = os.urandom,
) -> dict[str, str | int]:
    """Everything that a message of ours carries. `parent`: headers of the message that caused it, whose trace goes on.

    headers = message_headers("stage.completed", "/meshwork/sfm", event_id, job_id, "sfm", parent=delivery.headers)
    """
    subject = job_id if step is None else f"{job_id}/{step}"
    headers = cloud_event(event_type, source, subject, message_id, time)
    headers[HEADER_JOB] = job_id
    if step is not None:
        headers[HEADER_STEP] = step
    headers[HEADER_TRACEPARENT] = child_traceparent((parent or {}).get(HEADER_TRACEPARENT), random_bytes)
    return headers


def carried_over(headers: Headers) -> dict[str, str | int]:
    """What a copy of a message keeps: all but the broker's own `x-…`, which would make it count and route the copy wrongly."""
    return {name: value for name, value in headers.items() if not name.lower().startswith("x-")}


def event_type_of(headers: Headers) -> str:
    """The CloudEvents type, also a copy's AMQP `type`."""
    return str(headers.get(f"{CLOUD_EVENTS}type", ""))
