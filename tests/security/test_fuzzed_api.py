"""Whatever is sent, no answer of 5xx, and every answer is one that the OpenAPI document has.

Some hundred requests here; `make fuzz N=100000` sends as many as it is told (tests/security/README.md).
"""

from pathlib import Path

from tests.security.fuzzing.changed_requests import try_changed, try_on_postgresql
from tests.security.fuzzing.documented_requests import try_documented
from tests.security.fuzzing.raw_requests import try_raw


def test_no_request_is_answered_with_5xx(tmp_path: Path) -> None:
    """Every call of the document, with what it allows and with what it does not, on jobs that there are and on others."""
    tally = try_documented(1, 160, tmp_path)
    assert tally.faults == []


async def test_no_nearly_valid_request_is_answered_with_5xx(tmp_path: Path) -> None:
    """Valid requests with fields, headers, paths or bytes changed: most go deep before they are refused, and some are accepted."""
    tally = await try_changed(1, 150, tmp_path)
    assert tally.faults == []
    assert len({ending for _, ending in tally.counts}) >= 6


async def test_no_nearly_valid_request_is_answered_with_5xx_on_postgresql(tmp_path: Path, postgres_server: str) -> None:
    """Types, ranges and encodings that only its driver or its server refuses are refused before, with a reason."""
    tally = await try_on_postgresql(1, 300, tmp_path, postgres_server)
    assert tally.faults == []
    assert len({ending for _, ending in tally.counts}) >= 6


async def test_no_bytes_on_a_socket_are_answered_with_5xx(tmp_path: Path) -> None:
    """Requests that no client would write: lengths that lie, two framings at once, a method from nowhere."""
    tally = await try_raw(1, 100, tmp_path)
    assert tally.faults == []
