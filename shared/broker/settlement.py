"""The five ways to settle a delivery. We never nack or reject: what goes elsewhere is published first, then acked.

done        ack
retry       publish to a retry queue, then ack
give up     publish to `dead` (it reaches the parking queue and the tracker), then ack
hand back   publish to the queue that it came from, counters unchanged, then ack
lost lease  nothing: the broker took the message back, redelivery decides

Each function raises LeaseLost when the lease is gone; if it was gone before, nothing was published. Each raises
DependencyUnavailable when its publish failed: the message is still held, call it again. A kill between publish and
ack leaves a duplicate, never a loss.
"""

from shared.broker.headers import carried_over, event_type_of
from shared.contracts.routing import (
    DEAD_EXCHANGE,
    HEADER_CODE,
    HEADER_JOB,
    HEADER_REASON,
    HEADER_STEP,
    RETRY_EXCHANGE,
    WORK_EXCHANGE,
    retry_delay,
    retry_key,
)
from shared.errors import LeaseLost
from shared.ports import Broker, Delivery, Headers, Publication

_REASON_CHARACTERS = 500  # a header is for a person in the management UI, not for a stack trace


async def done(delivery: Delivery) -> None:
    """The work is finished, or there is nothing to do."""
    await delivery.ack()


async def retry(
    broker: Broker, delivery: Delivery, delay_s: float, body: bytes, message_id: str, extra_headers: Headers | None = None
) -> None:
    """Comes back to the same queue after the shortest retry delay not below `delay_s`, with `body` (the caller changed its counters)."""
    key = retry_key(retry_delay(delay_s), delivery.queue)
    await _publish_then_ack(broker, delivery, RETRY_EXCHANGE, key, body, message_id, extra_headers)


async def give_up(broker: Broker, delivery: Delivery, code: str, reason: str, job_id: str | None, step: str | None) -> None:
    """Parks the original message with the reason in its headers.

    Where nobody could read the body (`job_id` and `step` None), the message's own headers name job and step.
    """
    headers: dict[str, str | int] = {HEADER_CODE: code, HEADER_REASON: reason[:_REASON_CHARACTERS]}
    headers |= {name: value for name, value in ((HEADER_JOB, job_id), (HEADER_STEP, step)) if value is not None}
    await _publish_then_ack(broker, delivery, DEAD_EXCHANGE, delivery.queue, delivery.body, delivery.message_id, headers)


async def hand_back(broker: Broker, delivery: Delivery, body: bytes | None = None) -> None:
    """For another worker: the message goes to its own queue again, as it came or with `body`."""
    body = delivery.body if body is None else body
    await _publish_then_ack(broker, delivery, WORK_EXCHANGE, delivery.queue, body, delivery.message_id, None)


async def _publish_then_ack(
    broker: Broker, delivery: Delivery, exchange: str, key: str, body: bytes, message_id: str, extra_headers: Headers | None
) -> None:
    if delivery.lease_lost:
        raise LeaseLost
    headers = carried_over(delivery.headers) | dict(extra_headers or {})
    await broker.publish(Publication(exchange, key, body, message_id, event_type_of(headers), headers))
    await delivery.ack()
