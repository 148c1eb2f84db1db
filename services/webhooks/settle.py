"""After a call: tell what came of it, publish what follows, then ack. A kill in between repeats the call with the same id."""

from services.webhooks.call import Called
from services.webhooks.schedule import Next
from shared.broker.headers import message_headers
from shared.contracts.events import WebhookAttempted, event_key
from shared.contracts.messages import WebhookMessage
from shared.contracts.routing import EVENTS_EXCHANGE, HEADER_WAITED
from shared.ports import Delivery, Publication
from shared.runtime.patience import PatientPublisher
from shared.runtime.settling import Settling

SOURCE = "/meshwork/webhooks"


async def settle(
    message: WebhookMessage,
    called: Called,
    following: Next,
    attempt_id: str,
    delivery: Delivery,
    publisher: PatientPublisher,
    settling: Settling,
) -> None:
    """Carries out what was decided. Raises LeaseLost when the broker gave the message to somebody else meanwhile."""
    await publisher.publish(attempted(message, called, following, attempt_id, delivery))
    if following.retry_in_s is not None:
        again = message.model_copy(update={"attempt": message.attempt + 1})
        await settling.retry(following.retry_in_s, again.to_bytes(), again.message_id, {HEADER_WAITED: 0})
    elif following.parked_as is not None:
        await settling.give_up(following.parked_as, called.error or "", message.job_id, None)
    else:
        await settling.done()


def attempted(message: WebhookMessage, called: Called, following: Next, attempt_id: str, delivery: Delivery) -> Publication:
    """The event that tells of one call."""
    event = WebhookAttempted(
        job_id=message.job_id,
        delivery_id=message.delivery_id,
        attempt_id=attempt_id,
        at=called.at,
        status_code=called.status_code,
        error=called.error,
        outcome=following.outcome,
        body_damaged=called.body_damaged,
    )
    headers = message_headers(event.type, SOURCE, attempt_id, message.job_id, parent=delivery.headers, time=called.at)
    return Publication(EVENTS_EXCHANGE, event_key(event), event.to_bytes(), attempt_id, event.type, headers)
