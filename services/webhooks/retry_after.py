"""The Retry-After header (RFC 9110 §10.2.3): seconds, or a date."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def seconds_of(value: str | None, now: datetime) -> float | None:
    """How long a receiver asks to be left alone; None where it does not say, or says nothing that can be read."""
    text = (value or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:12])  # more digits than that is no duration
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max((date - now).total_seconds(), 0.0)
