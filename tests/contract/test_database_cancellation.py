"""A task may be cancelled at any await; its transaction must not outlive it."""

import asyncio
import random
from pathlib import Path

from gateway.database.engine import Database, create_engine
from gateway.database.upgrade import upgrade_database


async def write_one(database: Database) -> None:
    async with database.write() as rows:
        rows.to_outbox("job", "stop", {})
        await rows.session.flush()


async def test_a_cancelled_writer_leaves_no_lock(tmp_path: Path) -> None:
    """The next writer of an SQLite file goes on at once, wherever the last one was cancelled."""
    database = create_engine(f"sqlite+aiosqlite:///{tmp_path}/rows.db")
    await upgrade_database(database)
    pauses = random.Random(0)
    for _ in range(150):
        cancelled = asyncio.create_task(write_one(database))
        await asyncio.sleep(pauses.random() * 0.008)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        async with asyncio.timeout(10):  # a lock that is left is waited for 30 s
            await write_one(database)
    await database.close()
