"""What messages carry beside their body."""

from datetime import UTC, datetime

import pytest

from shared.broker.headers import carried_over, child_traceparent, event_type_of, message_headers, new_traceparent, trace_id

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def fixed_bytes(number: int) -> bytes:
    return bytes(range(1, number + 1))


def test_a_message_continues_the_trace_of_its_cause() -> None:
    """The same trace id, a span of its own, the sender's choice on sampling."""
    assert child_traceparent(PARENT, fixed_bytes) == "00-0af7651916cd43dd8448eb211c80319c-0102030405060708-01"


@pytest.mark.parametrize("broken", [None, "", "00-xyz", 7, "00-" + "0" * 32 + "-b7ad6b7169203331-01", PARENT + "-more", PARENT.upper()])
def test_a_broken_trace_starts_anew(broken: str | int | None) -> None:
    """What a stranger put there does no harm."""
    assert child_traceparent(broken, fixed_bytes) == new_traceparent(fixed_bytes)


def test_headers_name_job_step_and_event() -> None:
    """The tracker ends a job by them when nobody can read the body; CloudEvents consumers find their attributes."""
    time = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    headers = message_headers("stage.completed", "/meshwork/sfm", "id-1", "j1", "sfm", {"traceparent": PARENT}, time, fixed_bytes)

    assert headers == {
        "job": "j1",
        "step": "sfm",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-0102030405060708-01",
        "cloudEvents_specversion": "1.0",
        "cloudEvents_id": "id-1",
        "cloudEvents_source": "/meshwork/sfm",
        "cloudEvents_type": "stage.completed",
        "cloudEvents_subject": "j1/sfm",
        "cloudEvents_time": "2026-01-02T03:04:05+00:00",
        "cloudEvents_datacontenttype": "application/json",
    }
    assert (event_type_of(headers), trace_id(headers)) == ("stage.completed", "0af7651916cd43dd8448eb211c80319c")


def test_a_copy_leaves_the_brokers_headers_behind() -> None:
    """Counts and deaths belong to the message that was copied."""
    assert carried_over({"x-delivery-count": 3, "X-Death": "y", "job": "j1", "newer": 2}) == {"job": "j1", "newer": 2}
