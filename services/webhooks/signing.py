"""Standard Webhooks 1.0: the headers that let a receiver tell our calls from anybody's."""

from datetime import datetime

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from shared.sealing import SealError

USER_AGENT = "Meshwork-Webhooks/0.1"


def signed_headers(delivery_id: str, body: bytes, secrets: tuple[str, ...], at: datetime) -> dict[str, str]:
    """Headers for exactly these bytes, signed now with every secret, so that a receiver may know the old or the new one.

    `at` is in UTC. Raises SealError for a secret that is none.
    """
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(_signature(delivery_id, body, secret, at) for secret in secrets),
        "content-type": "application/json",
        "user-agent": USER_AGENT,
    }


def _signature(delivery_id: str, body: bytes, secret: str, at: datetime) -> str:
    try:
        return str(Webhook(secret).sign(delivery_id, at, body.decode()))
    except (ValueError, EmptyWebhookSecretError):
        # without the cause: its message may quote the secret
        raise SealError("the tenant's webhook secret is not base64 after whsec_") from None
