"""What is decided without any broker, store or network: schedule, Retry-After, signatures, reading."""

import json
import time
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from services.webhooks.call import Called, heard
from services.webhooks.retry_after import seconds_of
from services.webhooks.schedule import Next, what_follows
from services.webhooks.settings import WebhookSettings
from services.webhooks.signing import signed_headers
from shared.http.posting import Answer
from shared.sealing import SealError
from tests.unit.webhooks.world import BODY, OLD_SECRET, SEAL_KEY, SECRET, message

NOW = datetime(2026, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)
FAILED = Called(NOW, 500, "answered 500")


def test_each_failure_waits_for_the_schedules_next_pause() -> None:
    """Attempt n is followed by the n-th pause; after the last pause's attempt it is over."""
    schedule = (10.0, 60.0, 300.0)

    assert what_follows(message(schedule_s=schedule, attempt=1), FAILED) == Next("failed", retry_in_s=10.0)
    assert what_follows(message(schedule_s=schedule, attempt=3), FAILED) == Next("failed", retry_in_s=300.0)
    assert what_follows(message(schedule_s=schedule, attempt=4), FAILED) == Next("parked", parked_as="EXHAUSTED")
    assert what_follows(message(schedule_s=(), attempt=1), FAILED) == Next("parked", parked_as="EXHAUSTED")


def test_success_410_and_lost_workers_end_it() -> None:
    """Nothing follows a delivery; 410 and a call that keeps killing park at once, whatever the schedule holds."""
    assert what_follows(message(), Called(NOW, 204)) == Next("delivered")
    assert what_follows(message(), Called(NOW, 410, "answered 410", gone=True)) == Next("parked", parked_as="GONE")
    assert what_follows(message(), Called(NOW, error="lost", lost=True)) == Next("parked", parked_as="WORKER_LOST")


def test_a_replay_never_touches_the_schedule() -> None:
    """Whatever it meets, it is told and over."""
    for called in (FAILED, Called(NOW, 410, "x", gone=True), Called(NOW, error="x", lost=True), Called(NOW, 503, "x", retry_after_s=60)):
        assert what_follows(message(replay="r1"), called) == Next("failed")
    assert what_follows(message(replay="r1"), Called(NOW, 200)) == Next("delivered")


@pytest.mark.parametrize(("asked", "pause"), [(None, 10.0), (0.0, 10.0), (9.0, 10.0), (11.0, 11.0), (3600.0, 3600.0), (10**9, 3600.0)])
def test_retry_after_only_lengthens_and_only_so_far(asked: float | None, pause: float) -> None:
    """Never sooner than the schedule, never later than an hour."""
    assert what_follows(message(), Called(NOW, 503, "answered 503", retry_after_s=asked)).retry_in_s == pause


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("9" * 400, 999999999999.0),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 59.4),
        ("Fri, 02 Jan 2026 03:00:00 GMT", 0.0),
        ("Fri, 02 Jan 2026 04:05:05 +0100", 59.4),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Fri, 99 Jan 2026 03:05:05 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str | None, seconds: float | None) -> None:
    """Seconds or a date; anything else is as good as nothing."""
    assert seconds_of(header, NOW) == (None if seconds is None else pytest.approx(seconds))


def test_an_answer_means_what_its_status_says() -> None:
    """2xx is success, and only 429 and 503 may ask for time."""
    assert [heard(Answer(status), NOW).error for status in (200, 201, 204, 299)] == [None] * 4
    assert all(heard(Answer(status), NOW).error for status in (199, 300, 302, 308, 400, 404, 429, 500, 599))
    assert heard(Answer(410), NOW).gone and not heard(Answer(404), NOW).gone
    assert [heard(Answer(status, "60"), NOW).retry_after_s for status in (429, 503, 500, 302)] == [60.0, 60.0, None, None]


def test_signatures_verify_with_the_standard_library() -> None:
    """Exactly these bytes, id and time; during rotation with either secret."""
    now = datetime.now(UTC)
    headers = signed_headers("d1", BODY, (SECRET, OLD_SECRET), now)

    assert headers["webhook-id"] == "d1" and headers["content-type"] == "application/json"
    assert headers["webhook-timestamp"] == str(int(now.timestamp()))
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, OLD_SECRET):
        assert Webhook(secret).verify(BODY, headers) == json.loads(BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_b3RoZXI=").verify(BODY, headers)


def test_a_timestamp_is_of_the_call_in_any_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own zone changes nothing."""
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    here = signed_headers("d1", BODY, (SECRET,), at)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert signed_headers("d1", BODY, (SECRET,), at) == here
    finally:
        monkeypatch.undo()
        time.tzset()
    assert here["webhook-timestamp"] == "1767323045"


@pytest.mark.parametrize("secret", ["whsec_", "whsec_not base64!é", "whsec_A"])
def test_a_secret_that_is_none_is_told_without_quoting_it(secret: str) -> None:
    """The operator reads what is wrong, the log does not hold the secret."""
    with pytest.raises(SealError) as caught:
        signed_headers("d1", BODY, (secret,), NOW)
    assert str(caught.value) == "the tenant's webhook secret is not base64 after whsec_"


def test_production_refuses_sample_secrets() -> None:
    """A service that cannot unseal, or that anybody could, does not start."""
    good = {"seal_key": SEAL_KEY, "s3_secret_key": "own"}
    WebhookSettings(environment="production", **good)
    for bad in ({"seal_key": ""}, {"s3_secret_key": "change-me"}):
        with pytest.raises(ValueError):
            WebhookSettings(environment="production", **good | bad)
