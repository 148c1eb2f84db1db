"""Settings of the gateway, from `MESHWORK_…` environment variables."""

import base64
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, model_validator

from shared.contracts.routing import RETRY_DELAYS_S
from shared.settings import SAMPLE_SECRETS, CommaSeparated, SharedSettings

SAMPLE_SECRET = "change-me"  # noqa: S105 - refused in production
SAMPLE_WEBHOOK_SECRET = "whsec_Y2hhbmdlLW1lLWNoYW5nZS1tZS1jaGFuZ2UtbWU="  # noqa: S105 - refused in production
MIB = 1 << 20


def _names_retry_queues(schedule: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [delay for delay in schedule if delay not in RETRY_DELAYS_S]:
        raise ValueError(f"{unknown[0]!r} is no retry delay; there are {', '.join(RETRY_DELAYS_S)}")
    return schedule


def _are_webhook_secrets(secret: SecretStr) -> SecretStr:
    for value in split_secrets(secret):
        try:
            if not value.startswith("whsec_") or not 24 <= len(base64.b64decode(value.removeprefix("whsec_"), validate=True)) <= 64:
                raise ValueError
        except ValueError:
            raise ValueError("a webhook secret is whsec_ and the base64 of 24 to 64 bytes") from None
    return secret


def split_secrets(secret: SecretStr) -> tuple[str, ...]:
    """The values of a secret that may hold two while it is rotated, the first one in use."""
    return tuple(part.strip() for part in secret.get_secret_value().split(",") if part.strip())


WebhookSecrets = Annotated[SecretStr, AfterValidator(_are_webhook_secrets)]
RetrySchedule = Annotated[CommaSeparated, AfterValidator(_names_retry_queues)]


class GatewaySettings(SharedSettings):
    """One field per variable; `.env.example` lists them with their defaults and why."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: SecretStr = SecretStr(SAMPLE_SECRET)
    webhook_secret: WebhookSecrets = SecretStr(SAMPLE_WEBHOOK_SECRET)
    link_secret: SecretStr = SecretStr(SAMPLE_SECRET)
    database_url: SecretStr = SecretStr("postgresql+asyncpg://meshwork:change-me@127.0.0.1:5432/meshwork")
    webhook_schedule: RetrySchedule = ("10s", "1m", "5m", "30m", "2h", "10h", "10h", "10h", "10h", "10h", "10h")
    in_flight: int = Field(default=16, ge=1)
    min_images: int = Field(default=3, ge=3)
    max_images: int = Field(default=1000, ge=3)
    max_image_bytes: int = Field(default=64 * MIB, ge=1024)
    max_archive_bytes: int = Field(default=2048 * MIB, ge=1024)
    max_upload_bytes: int = Field(default=2048 * MIB, ge=1024)
    max_body_bytes: int = Field(default=4 * MIB, ge=1024)
    tenants_file: Path | None = None  # gateway/tenants.py
    rate_limit_per_minute: int = Field(default=0, ge=0)  # 0: no limit
    max_unfinished_jobs: int = Field(default=0, ge=0)  # 0: no limit
    max_streams: int = Field(default=100, ge=0)  # 0: no limit
    link_lifetime: timedelta = timedelta(minutes=15)
    upload_lifetime: timedelta = timedelta(hours=1)

    @property
    def webhook_schedule_s(self) -> tuple[float, ...]:
        """Pauses before the second, third, … attempt of a delivery, in seconds."""
        return tuple(float(RETRY_DELAYS_S[delay]) for delay in self.webhook_schedule)

    @model_validator(mode="after")
    def _is_fit_for_production(self) -> "GatewaySettings":
        if self.max_images < self.min_images:
            raise ValueError("MESHWORK_MAX_IMAGES must not be below MESHWORK_MIN_IMAGES")
        if self.environment == "production":
            unfit = [name for name, value in self if isinstance(value, SecretStr) and _is_sample(value)]
            if unfit:
                names = ", ".join(f"MESHWORK_{name.upper()}" for name in unfit)
                raise ValueError(f"production refuses to start with missing or sample secrets: set {names}")
        return self


def _is_sample(secret: SecretStr) -> bool:
    value = secret.get_secret_value()
    return not value or any(sample in value for sample in SAMPLE_SECRETS)


def limits_of(settings: GatewaySettings) -> dict[str, Any]:
    """What `/api/v1/capabilities` says about limits."""
    return {
        "min_images": settings.min_images,
        "max_images": settings.max_images,
        "recommended_images": 12,
        "max_image_bytes": settings.max_image_bytes,
        "max_image_megapixels": 100,
        "max_archive_bytes": settings.max_archive_bytes,
        "max_upload_bytes": settings.max_upload_bytes,
        "max_body_bytes": settings.max_body_bytes,
        "max_metadata_bytes": 64 << 10,
        "max_metadata_levels": 32,
        "retention_days": settings.retention / timedelta(days=1),
    }
