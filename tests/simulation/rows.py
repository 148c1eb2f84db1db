"""SQLite without threads: a connection's statements are steps of the simulation, and a killed process's connections are cut."""

import asyncio
import contextvars
import sqlite3
import tempfile
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import create_engine as create_sync_engine
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from gateway.database.engine import Database
from gateway.database.models import Base
from shared.errors import DependencyUnavailable
from tests.simulation.network import Network

DATABASE = "database"
_FIRST_LOCK_PAUSE_S, _LONGEST_LOCK_PAUSE_S = 0.005, 1.0
_BUSY_S = 30.0


class _Cursor:
    """What SQLAlchemy's adapter of aiosqlite needs of a cursor; it fetches everything at once."""

    def __init__(self, connection: "InlineConnection") -> None:
        self._connection = connection
        self._cursor = connection.raw.cursor()

    async def execute(self, statement: str, parameters: Any = ()) -> "_Cursor":
        await self._connection.run(lambda: self._cursor.execute(statement, parameters), statement)
        return self

    async def executemany(self, statement: str, parameters: Iterable[Any]) -> "_Cursor":
        await self._connection.run(lambda: self._cursor.executemany(statement, parameters), statement)
        return self

    async def fetchall(self) -> list[Any]:
        return self._cursor.fetchall()

    async def fetchone(self) -> Any:
        return self._cursor.fetchone()

    async def close(self) -> None:
        self._cursor.close()

    async def __aenter__(self) -> "_Cursor":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


class InlineConnection:
    """As much of `aiosqlite.Connection` as SQLAlchemy uses."""

    def __init__(self, rows: "SimulatedDatabase", raw: sqlite3.Connection) -> None:
        self.raw = raw
        self._rows = rows
        self._network = rows.network
        self._writing = False
        self._connection = raw  # SQLAlchemy looks whether it is open

    async def run(self, work: Callable[[], Any], statement: str) -> Any:
        """Work in a transaction; its beginning crosses the network."""
        if not statement.startswith("BEGIN"):
            await asyncio.sleep(0)
            return work()
        self._writing = statement == "BEGIN IMMEDIATE"
        return await _as_sqlite(self._network.call(DATABASE, statement, lambda: None)) or await _when_free(work)

    def cursor(self) -> _Cursor:
        return _Cursor(self)

    async def execute(self, statement: str, parameters: Any = ()) -> _Cursor:
        return await _Cursor(self).execute(statement, parameters)

    async def commit(self) -> None:
        """A commit that is not answered took place, or did not."""
        if not self.raw.in_transaction:
            return
        if not self._writing:
            self.raw.commit()
            return
        try:
            await _as_sqlite(self._network.call(DATABASE, "COMMIT", self._commit))
        finally:
            await self.rollback()

    async def rollback(self) -> None:
        if self.raw.in_transaction:
            self.raw.rollback()

    async def close(self) -> None:
        self._rows.give_back(self.raw)

    def stop(self) -> None:
        self._rows.give_back(self.raw)

    async def create_function(self, *args: Any, **kwargs: Any) -> None:
        """SQLAlchemy's own, which nobody uses here: every prepared statement would have to be prepared again."""

    def _commit(self) -> None:
        self.raw.commit()
        self._rows.on_commit()


async def _as_sqlite(call: Any) -> Any:
    try:
        return await call
    except DependencyUnavailable as error:
        raise sqlite3.OperationalError(str(error)) from error


async def _when_free(work: Callable[[], Any]) -> Any:
    """Waits for another writer as SQLite's busy timeout would, in virtual time."""
    loop = asyncio.get_running_loop()
    until, pause_s = loop.time() + _BUSY_S, _FIRST_LOCK_PAUSE_S
    while True:
        try:
            return work()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or loop.time() > until:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_LOCK_PAUSE_S)


class DatabaseFile:
    """The tables. Runs of one process of ours share them: statements stay prepared."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="meshwork-rows-")
        self._idle: list[sqlite3.Connection] = []
        engine = create_sync_engine(f"sqlite:///{self._path}")
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        Base.metadata.create_all(engine)
        engine.dispose()

    def take(self) -> sqlite3.Connection:
        """A connection that nobody uses."""
        return self._idle.pop() if self._idle else self._connect()

    def give_back(self, connection: sqlite3.Connection) -> None:
        """Nobody uses it any more; what it had not committed never was."""
        if connection.in_transaction:
            connection.rollback()
        self._idle.append(connection)

    def empty(self) -> None:
        """As if nothing had ever happened."""
        connection = self.take()
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(f"DELETE FROM {table.name}")
        connection.execute("DELETE FROM sqlite_sequence")
        self.give_back(connection)

    @property
    def _path(self) -> str:
        return f"{self._folder.name}/rows.sqlite"

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=OFF")
        return connection


@cache
def database_file() -> DatabaseFile:
    """Of this process of ours."""
    return DatabaseFile()


class SimulatedDatabase:
    """One process's way to the rows; `enter` makes it so for a context."""

    def __init__(self, file: DatabaseFile, network: Network, clock: Callable[[], datetime], on_commit: Callable[[], None]) -> None:
        self.network = network
        self.on_commit = on_commit
        self.database = Database(_engine(), clock)
        self._file = file
        self._in_use: list[sqlite3.Connection] = []

    def enter(self) -> None:
        """From here on, this context's transactions are this process's."""
        _ROWS.set(self)

    def connect(self) -> InlineConnection:
        """A connection of this process."""
        self._in_use.append(self._file.take())
        return InlineConnection(self, self._in_use[-1])

    def give_back(self, connection: sqlite3.Connection) -> None:
        """It is not used any more."""
        if connection in self._in_use:
            self._in_use.remove(connection)
            self._file.give_back(connection)

    def cut(self) -> None:
        """The process is gone."""
        for connection in list(self._in_use):
            self.give_back(connection)


_ROWS: contextvars.ContextVar[SimulatedDatabase] = contextvars.ContextVar("rows")


@cache
def _engine() -> AsyncEngine:
    """One for all runs: a statement is compiled once."""

    async def connect() -> InlineConnection:
        return _ROWS.get().connect()

    engine = create_async_engine("sqlite+aiosqlite://", async_creator=connect, poolclass=NullPool)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _begin(connection: Any) -> None:
    writes = connection.get_execution_options().get("meshwork_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
