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
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random


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
    """Opens the database file, with a write-ahead log; a writer waits up to `timeout_s` for one in another process."""
    return await PatientConnection(lambda: _opened(path, timeout_s), iter_chunk_size=64)


def _opened(path: Path | str, timeout_s: float) -> sqlite3.Connection:
    """In the connection's thread. SQLite's own timeout does not hold for the change to a write-ahead log.

    Of several that open a new file at once, all but one may be told at once that it is locked.
    """
    connection = sqlite3.connect(path, timeout=timeout_s)
    patiently = Retrying(retry=retry_if_exception(_is_locked), wait=wait_random(0, 0.02), stop=stop_after_delay(timeout_s), reraise=True)
    try:
        patiently(connection.execute, "PRAGMA journal_mode=WAL").close()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
