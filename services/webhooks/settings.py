"""Settings of the webhooks service, from `MESHWORK_…` environment variables."""

from pydantic import Field, model_validator

from shared.settings import SAMPLE_SECRETS, SharedSettings


class WebhookSettings(SharedSettings):
    """The shared ones and what the calls need."""

    health_host: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from other hosts
    webhook_timeout_s: float = Field(default=15.0, gt=0)  # one call, to the answer's status; a receiver should queue and answer
    webhook_prefetch: int = Field(default=32, ge=1)  # deliveries held at a time
    webhook_calls_per_host: int = Field(default=4, ge=1)  # of those, for one tenant: one slow receiver must not hold up the others
    # A store that is away longer: the delivery waits in retry.10s. Held, each loss of the service would count against it.
    webhook_store_patience_s: float = Field(default=10.0, gt=0)
    dependency_check_s: float = Field(default=10.0, gt=0)  # how often readiness asks broker and store

    blocked_loop_warn_s: float = Field(default=5.0, gt=0)
    blocked_loop_exit_s: float = Field(default=120.0, gt=0)  # a loop blocked this long never comes back

    @model_validator(mode="after")
    def _refuse_samples_in_production(self) -> "WebhookSettings":
        samples = [self.seal_key.get_secret_value(), self.s3_secret_key.get_secret_value()]
        if self.environment == "production" and (not samples[0] or SAMPLE_SECRETS.intersection(samples)):
            raise ValueError("MESHWORK_SEAL_KEY and MESHWORK_S3_SECRET_KEY must be set to secrets of your own")
        return self
