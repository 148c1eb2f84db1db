"""Settings that every process shares, from `MESHWORK_…` environment variables. Each process extends this class."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

SAMPLE_SECRETS = {"change-me", "whsec_Y2hhbmdlLW1lLWNoYW5nZS1tZS1jaGFuZ2UtbWU=", "Y2hhbmdlLW1lLWNoYW5nZS1tZS1jaGFuZ2UtbWUtISE="}


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class SharedSettings(BaseSettings):
    """One field per variable; `.env.example` lists them with their defaults and why."""

    # A secret that is refused must not be printed with the refusal.
    model_config = SettingsConfigDict(env_prefix="MESHWORK_", extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    environment: str = "development"  # "production" refuses sample secrets
    log_level: str = "INFO"
    log_json: bool = True
    public_url: str = "http://127.0.0.1:8000"
    allowed_private_networks: CommaSeparated = ()
    amqp_url: SecretStr = SecretStr("amqp://meshwork:change-me@127.0.0.1:5672/meshwork")
    s3_endpoint: str = "http://127.0.0.1:9000"
    s3_public_endpoint: str = ""  # empty: as s3_endpoint
    s3_access_key: str = "meshwork"
    s3_secret_key: SecretStr = SecretStr("change-me")
    s3_bucket: str = "meshwork"
    s3_region: str = "us-east-1"
    seal_key: SecretStr = SecretStr("")  # Fernet key(s), comma-separated, the first seals
    retention: timedelta = timedelta(days=30)
    work_dir: Path | None = None  # workspaces of attempts, uploads on their way; None: the system's temporary folder
    health_port: int = 9100  # /livez /readyz /metrics of a worker; 0: any free port
    grace_s: float = 20.0  # SIGTERM to exit
