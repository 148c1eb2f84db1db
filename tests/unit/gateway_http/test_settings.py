"""Settings of the gateway."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from gateway.settings import GatewaySettings, split_secrets

OWN = {
    "environment": "production",
    "api_key": "k" * 32,
    "link_secret": "l" * 32,
    "webhook_secret": "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNk",
    "seal_key": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=",
    "database_url": "postgresql+asyncpg://meshwork:own@db/meshwork",
    "amqp_url": "amqp://meshwork:own@mq/meshwork",
    "s3_secret_key": "own-secret",
}


def settings(**values: object) -> GatewaySettings:
    return GatewaySettings(_env_file=None, **values)


def test_production_starts_with_secrets_of_its_own() -> None:
    """All given, none a sample."""
    assert settings(**OWN).environment == "production"


@pytest.mark.parametrize("name", [name for name in OWN if name != "environment"])
def test_production_refuses_what_is_missing_or_a_sample(name: str) -> None:
    """The refusal names the variable and not its value."""
    with pytest.raises(ValidationError) as caught:
        settings(**{key: value for key, value in OWN.items() if key != name})
    assert f"MESHWORK_{name.upper()}" in str(caught.value)


def test_a_refusal_shows_no_secret() -> None:
    """Errors of settings reach logs."""
    with pytest.raises(ValidationError) as caught:
        settings(**OWN | {"link_secret": "change-me", "port": 99999})
    assert "own-secret" not in str(caught.value) and OWN["api_key"] not in str(caught.value)


def test_the_schedule_names_retry_queues() -> None:
    """Its default is the promised one; another delay is refused."""
    assert settings().webhook_schedule_s == (10, 60, 300, 1800, 7200, *[36000] * 6)
    assert settings(webhook_schedule="10s, 1m").webhook_schedule_s == (10, 60)
    with pytest.raises(ValidationError, match="no retry delay"):
        settings(webhook_schedule="3s")


@pytest.mark.parametrize("secret", ["plain", "whsec_", "whsec_***", "whsec_QUJD"])
def test_a_webhook_secret_has_its_form(secret: str) -> None:
    """One that receivers' libraries would refuse is refused at the start, without being printed: it may be one letter off a real one."""
    with pytest.raises(ValidationError, match="whsec_") as caught:
        settings(webhook_secret=secret)
    assert f"'{secret}" not in str(caught.value)


def test_two_secrets_are_taken_while_they_are_rotated() -> None:
    """The first one signs."""
    two = f"{OWN['webhook_secret']}, {OWN['webhook_secret'][:-1]}e"
    assert split_secrets(settings(webhook_secret=two).webhook_secret)[0] == OWN["webhook_secret"]
    assert len(split_secrets(settings(webhook_secret=two).webhook_secret)) == 2


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the prefix; durations in ISO 8601."""
    monkeypatch.setenv("MESHWORK_RETENTION", "P7D")
    monkeypatch.setenv("MESHWORK_ALLOWED_PRIVATE_NETWORKS", "10.0.0.0/8, minio")
    assert settings().retention == timedelta(days=7)
    assert settings().allowed_private_networks == ("10.0.0.0/8", "minio")
