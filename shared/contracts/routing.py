"""Names of queues, exchanges and headers, and deterministic ids. Everything that talks to the broker takes them from here."""

import uuid

STAGES = ("ingest", "segmentation", "sfm", "mvs", "postprocess", "export")

WORK_EXCHANGE = "work"
RETRY_EXCHANGE = "retry"
EVENTS_EXCHANGE = "events"
DEAD_EXCHANGE = "dead"

WEBHOOKS_QUEUE = "webhooks.deliver"
TRACKER_QUEUE = "gateway.tracker"
DEAD_TRACKER_QUEUE = "dead.tracker"
DEAD_WEBHOOKS_QUEUE = "dead.webhooks"

# name -> seconds; a delay is served by the shortest retry queue not below it
RETRY_DELAYS_S: dict[str, int] = {"10s": 10, "1m": 60, "5m": 300, "30m": 1800, "2h": 7200, "10h": 36000}

HEADER_JOB = "job"
HEADER_STEP = "step"
HEADER_CODE = "code"  # on dead letters: the error code
HEADER_REASON = "reason"  # on dead letters: a sentence
HEADER_NEWER = "newer"  # how often a message of a newer schema version was put back
HEADER_OTHER_VERSION = "other-version"  # how often a share of a step split by another version of its stage was put back
HEADER_LOOKED = "looked"  # how often a share of a step was put back because another had begun what follows
HEADER_WAITED = "waited"  # how often a message was put aside: a dependency was away, or receivers of webhooks slow
HEADER_TRACEPARENT = "traceparent"

_NAMESPACE = uuid.UUID("6d657368-776f-5b6b-8000-000000000001")


def stage_queue(stage: str) -> str:
    """The work queue of a stage, e.g. `stage.sfm`; also its routing key on `work`."""
    return f"stage.{stage}"


def dead_queue(queue: str) -> str:
    """Where what gave up on a work queue is parked: `stage.sfm` -> `dead.sfm`, `webhooks.deliver` -> `dead.webhooks`."""
    return DEAD_WEBHOOKS_QUEUE if queue == WEBHOOKS_QUEUE else f"dead.{queue.removeprefix('stage.')}"


def retry_queue(delay: str) -> str:
    """The retry queue of a delay name, e.g. `retry.10s`."""
    return f"retry.{delay}"


def retry_key(delay: str, queue: str) -> str:
    """Routing key on `retry` that brings a message back to `queue` after `delay`, e.g. `10s.stage.sfm`."""
    return f"{delay}.{queue}"


def retry_delay(seconds: float) -> str:
    """The shortest retry delay not below `seconds`; the longest one where none is long enough."""
    return next((name for name, delay in RETRY_DELAYS_S.items() if delay >= seconds), "10h")


def deterministic_id(*parts: str | int) -> str:
    """uuid5 of the parts: the same event has the same id, whoever computes it."""
    return str(uuid.uuid5(_NAMESPACE, "/".join(str(part) for part in parts)))
