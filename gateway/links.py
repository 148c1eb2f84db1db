"""The gateway's own signed links to artifacts: they need no key, outlive any presigned link, and end with the job's retention."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from gateway.database.models import Job
from shared.contracts.artifacts import MODEL_GLB


@dataclass(frozen=True)
class Links:
    """How links are made. `secrets`: the first signs, all verify (two while they are rotated)."""

    public_url: str
    secrets: Sequence[str]
    retention: timedelta

    def expires_at(self, finished_at: datetime) -> datetime:
        """When links to a job's artifacts end, to the second."""
        return (finished_at + self.retention).replace(microsecond=0)

    def sign_link(self, job_id: str, name: str, expires_at: datetime) -> str:
        """A link to an artifact that opens until `expires_at`."""
        expires = int(expires_at.timestamp())
        signature = _signature(self.secrets[0], job_id, name, expires)
        return f"{self.public_url.rstrip('/')}/api/v1/jobs/{job_id}/artifacts/{quote(name)}?expires={expires}&signature={signature}"

    def end_of_link(self, job_id: str, name: str, expires: str, signature: str) -> int | None:
        """Until when a link opens (query values as received), in seconds since 1970; None for one that we did not sign."""
        if not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
            return None
        ours = any(
            hmac.compare_digest(_signature(secret, job_id, name, int(expires)).encode(), signature.encode("utf-8", "replace"))
            for secret in self.secrets
        )
        return int(expires) if ours else None

    def artifacts_of(self, job: Job) -> list[dict[str, Any]]:
        """The artifacts of a job as callers see them; empty until it completed."""
        if job.finished_at is None:
            return []
        expires_at = self.expires_at(job.finished_at)
        return [
            {
                "name": artifact["name"],
                "format": artifact["format"],
                "bytes": artifact["bytes"],
                "sha256": artifact["sha256"],
                "url": self.sign_link(job.id, artifact["name"], expires_at),
                "expires_at": rfc3339(expires_at),
            }
            for artifact in job.artifacts or ()
        ]

    def result_url_of(self, job: Job) -> str | None:
        """The link to the model; None where the job made none."""
        return next((artifact["url"] for artifact in self.artifacts_of(job) if artifact["name"] == MODEL_GLB), None)


def rfc3339(moment: datetime) -> str:
    """`2026-08-24T10:00:00.123Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _signature(secret: str, job_id: str, name: str, expires: int) -> str:
    return hmac.new(secret.encode(), f"{job_id}\n{name}\n{expires}".encode(), hashlib.sha256).hexdigest()
