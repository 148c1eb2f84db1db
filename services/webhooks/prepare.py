"""Before a call: is there still something to say? The body is read, then `deleted`."""

import hashlib
from dataclasses import dataclass

from shared.contracts.messages import WebhookMessage
from shared.errors import ObjectCorrupt, ObjectMissing
from shared.runtime.patience import PatientStore
from shared.storage import keys


@dataclass(frozen=True)
class Prepared:
    """A call to be made with exactly these bytes."""

    message: WebhookMessage
    body: bytes


@dataclass(frozen=True)
class Dropped:
    """Nobody wants this call any more."""

    reason: str


async def prepare(message: WebhookMessage, store: PatientStore) -> Prepared | Dropped:
    """The body and nothing else decides what is sent. Read in this order, a job deleted before the call is never told about.

    Raises WaitedTooLong while the store is away, and ObjectCorrupt for a body that is not the one that the gateway stored.
    """
    key = keys.webhook_body(message.job_id, message.delivery_id)
    try:
        body = await store.get(key)
    except ObjectMissing:
        return Dropped("its body is gone")
    if await store.exists(keys.deleted(message.job_id)):
        return Dropped("the job was deleted")
    if message.body_sha256 not in (None, hashlib.sha256(body).hexdigest()):
        raise ObjectCorrupt(key)
    return Prepared(message, body)
