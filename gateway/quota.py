"""At most so many unfinished jobs of a tenant at a time. Off by default."""

from collections.abc import Callable

from sqlalchemy import func, select

from gateway.database import jobs
from gateway.database.engine import Database
from gateway.database.models import Job
from gateway.problems import Problem

RETRY_AFTER_S = 30  # a job takes minutes: who asks sooner asks in vain
_UNFINISHED = ("uploading", "queued", "processing")


class JobQuota:
    """Counts rows, so that all replicas agree. Requests that arrive side by side may each see the last free place."""

    def __init__(self, database: Database, limit_of: Callable[[str], int]) -> None:
        self._database = database
        self._limit_of = limit_of

    async def check(self, tenant: str, idempotency_key: str | None) -> None:
        """Returns when the tenant may have one job more, or has the one of this key already. Raises Problem QUOTA_EXCEEDED."""
        limit = self._limit_of(tenant)
        if limit == 0:
            return
        some = select(Job.id).where(Job.tenant == tenant, Job.status.in_(_UNFINISHED)).limit(limit).subquery()
        async with self._database.read() as rows:
            unfinished = await rows.session.scalar(select(func.count()).select_from(some))
            full = (unfinished or 0) >= limit
            made = full and idempotency_key is not None and await jobs.job_of_key(rows, tenant, idempotency_key) is not None
        if full and not made:
            detail = f"At most {limit} unfinished jobs at a time."
            raise Problem("QUOTA_EXCEEDED", detail, headers={"Retry-After": str(RETRY_AFTER_S)})
