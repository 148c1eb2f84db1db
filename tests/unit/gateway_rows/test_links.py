"""The gateway's own links: nobody can widen one."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.links import Links, rfc3339

NOW = datetime(2026, 1, 1, tzinfo=UTC)
END = NOW + timedelta(days=30)
LINKS = Links("https://mesh.test/", ("new", "old"), timedelta(days=30))


def _parts(link: str) -> tuple[str, str]:
    query = parse_qs(urlsplit(link).query)
    return query["expires"][0], query["signature"][0]


def test_a_link_opens_until_it_ends() -> None:
    """Until the second that it was signed for."""
    link = LINKS.sign_link("job", "model.glb", END)
    assert link.startswith("https://mesh.test/api/v1/jobs/job/artifacts/model.glb?expires=")
    expires, signature = _parts(link)
    assert LINKS.end_of_link("job", "model.glb", expires, signature) == END.timestamp()


@pytest.mark.parametrize(
    ("job", "name", "later", "signature"),
    [
        ("other", "model.glb", "", None),
        ("job", "mesh.ply", "", None),
        ("job", "model.glb", "0", None),
        ("job", "model.glb", "", ""),
        ("job", "model.glb", "", "ü\udcff"),
        ("job", "model.glb", "x", None),
        ("job", "model.glb", "²", None),
        ("job", "model.glb", "0" * 50, None),
    ],
)
def test_nothing_of_a_link_can_be_changed(job: str, name: str, later: str, signature: str | None) -> None:
    """Job, name and end are signed; rubbish is refused, never an error."""
    expires, signed = _parts(LINKS.sign_link("job", "model.glb", END))
    assert LINKS.end_of_link(job, name, expires + later, signed if signature is None else signature) is None


def test_a_link_survives_the_rotation_of_its_secret() -> None:
    """What the old secret signed opens while it is still listed, and not when it is gone."""
    expires, signature = _parts(Links("", ("old",), timedelta(days=1)).sign_link("job", "model.glb", END))
    assert LINKS.end_of_link("job", "model.glb", expires, signature) == END.timestamp()
    assert Links("", ("new",), timedelta(days=1)).end_of_link("job", "model.glb", expires, signature) is None


def test_times_are_in_utc() -> None:
    """RFC 3339 with Z."""
    assert rfc3339(NOW) == "2026-01-01T00:00:00.000Z"
