"""What follows a call: nothing, a further attempt, or the end of the schedule."""

from dataclasses import dataclass
from typing import Literal

from services.webhooks.call import Called
from shared.contracts.messages import WebhookMessage

# A receiver may ask for more time than the schedule gives it, but not for so much that the next attempt never comes.
LONGEST_RETRY_AFTER_S = 3600.0

GONE = "GONE"
EXHAUSTED = "EXHAUSTED"
WORKER_LOST = "WORKER_LOST"


@dataclass(frozen=True)
class Next:
    """`outcome` is told as an event; then either `retry_in_s` is set, or `parked_as` (a code), or the delivery is over."""

    outcome: Literal["delivered", "failed", "parked"]
    retry_in_s: float | None = None
    parked_as: str | None = None


def what_follows(message: WebhookMessage, called: Called) -> Next:
    """Attempt n failed: attempt n+1 comes after the schedule's n-th pause, or later when the receiver asked for that.

    410 ends the schedule at once. A replay is one call: whatever it meets, the schedule goes on without it.
    """
    if called.error is None:
        return Next("delivered")
    if message.replay:
        return Next("failed")
    if called.gone or called.lost:
        return Next("parked", parked_as=GONE if called.gone else WORKER_LOST)
    if message.attempt > len(message.schedule_s):
        return Next("parked", parked_as=EXHAUSTED)
    asked_s = min(called.retry_after_s or 0.0, LONGEST_RETRY_AFTER_S)
    return Next("failed", retry_in_s=max(message.schedule_s[max(message.attempt, 1) - 1], asked_s))
