"""What reaches the log, and what must not."""

import json
import logging
import re

import pytest
from loguru import logger

from shared.runtime.logging import configure, redact, task_context


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("signing with whsec_Y2hhbmdlLW1lLWNoYW5nZQ==", "Y2hhbmdl"),
        ("connecting to amqp://meshwork:hunter2@broker:5672/meshwork", "hunter2"),
        ("postgresql+asyncpg://me:p%40ss@db/x", "p%40ss"),
        ("GET http://minio/b/k?X-Amz-Credential=AKIA%2Fx&X-Amz-Signature=deadbeef&x=1", "deadbeef"),
        ("GET http://minio/b/k?X-Amz-Credential=AKIA%2Fx&X-Amz-Signature=deadbeef&x=1", "AKIA"),
        ("headers={'Authorization': 'Bearer abc.def-ghi'}", "abc.def"),
        ("headers={'authorization': 'Basic dXNlcjpwYXNz'}", "dXNlcjpwYXNz"),
        ('[("x-api-key", "k-123456")]', "k-123456"),
        ("X-API-Key: k-123456", "k-123456"),
        ("webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=", "K5oZfzN95Z9"),
        ("Sec-WebSocket-Protocol: meshwork.key.k-123456", "k-123456"),
        ("MESHWORK_S3_SECRET_KEY=abcdef", "abcdef"),
        ("sealed gAAAAABmZ0123456789012345678901234567890_-==", "0123456789"),
    ],
)
def test_secrets_are_redacted(text: str, secret: str) -> None:
    """Nothing that looks like a secret survives, wherever it stands in the text."""
    assert secret not in redact(text)


def test_ordinary_text_is_left_alone() -> None:
    """Redaction does not eat what an operator needs to read."""
    text = "stage sfm: 12 of 16 photos registered in 3.5 s (http://minio:9000/meshwork/jobs/1/02-sfm/manifest.json)"

    assert text == redact(text)


def test_a_line_is_json_with_the_context_of_its_task(capsys: pytest.CaptureFixture[str]) -> None:
    """Every line names service, job, stage, attempt and trace."""
    configure("INFO", json_lines=True, service="sfm")

    with task_context(job="j1", stage="sfm", attempt="2", trace="t" * 32):
        logger.info("computing")

    line = json.loads(capsys.readouterr().err)
    assert tuple(line[name] for name in ("service", "job", "stage", "attempt", "trace", "message")) == (
        "sfm",
        "j1",
        "sfm",
        "2",
        "t" * 32,
        "computing",
    )


def test_exceptions_are_redacted_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback shows no secret either."""
    configure("INFO", json_lines=True, service="sfm")

    try:
        raise ValueError("cannot open amqp://a:hunter2@broker")
    except ValueError:
        logger.exception("lost {}", "whsec_abcdefgh")

    output = capsys.readouterr().err
    assert re.search("ValueError", json.loads(output)["exception"])
    assert "hunter2" not in output
    assert "abcdefgh" not in output


def test_the_standard_library_logs_through_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Libraries that use `logging` end up in the same stream, with their own name."""
    configure("INFO", json_lines=True, service="sfm")

    logging.getLogger("some.library").warning("disk %s", "full")

    line = json.loads(capsys.readouterr().err)
    assert (line["logger"], line["level"], line["message"]) == ("some.library", "WARNING", "disk full")
