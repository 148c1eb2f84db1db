"""The consumer with its HTTP client, for any broker and store: the mesh's process and the embedded mode start from here."""

from services.webhooks.consumer import WebhookConsumer
from services.webhooks.settings import WebhookSettings
from shared.http.addresses import AddressPolicy
from shared.http.posting import GuardedPoster
from shared.ports import ArtifactStore, Broker


def build_webhooks(broker: Broker, store: ArtifactStore, settings: WebhookSettings) -> WebhookConsumer:
    """Calls go through the guarded client. The broker must be connected before `start`."""
    policy = AddressPolicy.parse(settings.allowed_private_networks)
    return WebhookConsumer(broker, store, GuardedPoster(policy, settings.webhook_timeout_s), settings)
