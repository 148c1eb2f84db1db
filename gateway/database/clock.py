"""The database's time: replicas of the gateway need not agree about theirs."""

from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession


async def read_clock(session: AsyncSession) -> datetime:
    """Now, in UTC, to the millisecond or better."""
    if session.get_bind().dialect.name == "sqlite":
        value = await session.scalar(text("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')"))
        return datetime.fromisoformat(str(value)).replace(tzinfo=UTC)
    moment: datetime = (await session.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return moment.astimezone(UTC)
