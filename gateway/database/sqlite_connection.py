"""A SQLite connection that a cancelled task cannot leave inside a transaction.

aiosqlite runs statements in a thread. Where a task is cancelled while it waits for one, the statement goes on, SQLAlchemy closes the
connection, and SQLite keeps the write lock until the garbage collector finds the statement's cursor: the next writer waits in vain.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiosqlite


class PatientConnection(aiosqlite.Connection):
    """Lets every statement end, and rolls back, before a cancellation goes on, however often it is repeated meanwhile.

    A stream of live events whose client leaves is cancelled again at every await.
    """

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        running = asyncio.ensure_future(super()._execute(fn, *args, **kwargs))  # type: ignore[no-untyped-call]
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await _ended(running)
            await _ended(asyncio.ensure_future(super()._execute(self._roll_back)))  # type: ignore[no-untyped-call]
            raise

    def _roll_back(self) -> None:
        """In the connection's thread."""
        if self._connection is not None and self._connection.in_transaction:
            self._connection.rollback()


async def _ended(statement: asyncio.Future[Any]) -> None:
    """Returns once it has; whoever calls is being cancelled, and raises that afterwards."""
    while not statement.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({statement})


async def connect(path: Path | str, timeout_s: float) -> aiosqlite.Connection:
    """Opens the database file; a writer waits up to `timeout_s` for one in another process."""
    return await PatientConnection(lambda: sqlite3.connect(path, timeout=timeout_s), iter_chunk_size=64)
