"""SQLite without threads: a process's statements are steps of the simulation, and a killed process's connections are cut."""

import asyncio
import contextvars
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cache
from typing import Any, cast
from unittest import mock

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from gateway.database import engine as gateway_engine
from gateway.database.engine import Database
from gateway.database.models import Base
from shared.errors import DependencyUnavailable
from tests.simulation.network import Network

DATABASE = "database"
_FIRST_LOCK_PAUSE_S, _LONGEST_LOCK_PAUSE_S = 0.005, 1.0
_BUSY_S = 30.0


class InlineSession:
    """As much of `AsyncSession` as the gateway uses, without its greenlets: they cost more than everything else in a run.

    Each call is one step; where a transaction begins, and where it is committed, it crosses the network.
    """

    def __init__(self, engine: Engine, expire_on_commit: bool) -> None:
        self._rows = _ROWS.get()
        self._writes = bool(engine.get_execution_options().get("meshwork_write", False))
        self._connection = self._rows.connect()
        self._session = Session(self._connection, expire_on_commit=expire_on_commit)
        self._changes = 0

    async def __aenter__(self) -> "InlineSession":
        return self

    async def __aexit__(self, *error: object) -> None:
        self._session.close()
        self._rows.give_back(self._connection)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[None]:
        """A transaction. A commit that is not answered took place, or did not."""
        network, statement = self._rows.network, "BEGIN IMMEDIATE" if self._writes else "BEGIN"
        await network.call(DATABASE, statement, lambda: None)
        raw = raw_of(self._connection)
        await _when_free(lambda: raw.execute(statement))
        self._changes = raw.total_changes
        yield
        if self._writes:
            self._session.flush()
            await network.call(DATABASE, "COMMIT", self._commit)

    async def execute(self, statement: Any, values: Any = None, **options: Any) -> Any:
        await asyncio.sleep(0)
        return self._session.execute(statement, values, **options)

    async def scalars(self, statement: Any, values: Any = None, **options: Any) -> Any:
        await asyncio.sleep(0)
        return self._session.scalars(statement, values, **options)

    async def scalar(self, statement: Any, values: Any = None, **options: Any) -> Any:
        await asyncio.sleep(0)
        return self._session.scalar(statement, values, **options)

    async def get(self, entity: Any, key: Any, **options: Any) -> Any:
        await asyncio.sleep(0)
        return self._session.get(entity, key, **options)

    def add(self, row: object) -> None:
        self._session.add(row)

    def add_all(self, rows: Any) -> None:
        self._session.add_all(rows)

    def get_bind(self) -> Connection:
        return self._connection

    def _commit(self) -> None:
        raw = raw_of(self._connection)
        if raw.total_changes == self._changes:
            raw.commit()
            return
        self._session.commit()
        self._rows.on_commit()


async def _when_free(work: Callable[[], Any]) -> Any:
    """Waits for another writer as SQLite's busy timeout would, in virtual time."""
    loop = asyncio.get_running_loop()
    until, pause_s = loop.time() + _BUSY_S, _FIRST_LOCK_PAUSE_S
    while True:
        try:
            return work()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            if loop.time() > until:
                raise DependencyUnavailable("another process writes") from error
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_LOCK_PAUSE_S)


class DatabaseFile:
    """The tables. Runs of one process of ours share them: statements stay compiled and prepared."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="meshwork-rows-")
        self._idle: list[Connection] = []
        self.engine = create_engine("sqlite://", creator=self._connect, poolclass=NullPool)
        Base.metadata.create_all(self.engine)
        self.watched = self._connect()

    def take(self) -> Connection:
        """A connection that nobody uses."""
        return self._idle.pop() if self._idle else self.engine.connect()

    def give_back(self, connection: Connection) -> None:
        """Nobody uses it any more; what it had not committed never was."""
        connection.rollback()
        raw = raw_of(connection)
        if raw.in_transaction:
            raw.rollback()
        self._idle.append(connection)

    def empty(self) -> None:
        """As if nothing had ever happened."""
        for table in reversed(Base.metadata.sorted_tables):
            self.watched.execute(f"DELETE FROM {table.name}")
        self.watched.execute("DELETE FROM sqlite_sequence")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(f"{self._folder.name}/rows.sqlite", timeout=0, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=OFF"):
            connection.execute(f"PRAGMA {pragma}")
        return connection


def raw_of(connection: Connection) -> sqlite3.Connection:
    """The driver's own."""
    return cast(sqlite3.Connection, connection.connection.driver_connection)


@cache
def database_file() -> DatabaseFile:
    """Of this process of ours."""
    return DatabaseFile()


def inline_sessions() -> Any:
    """The context in which the gateway's sessions are ours."""
    return mock.patch.object(gateway_engine, "AsyncSession", InlineSession)


class SimulatedDatabase:
    """One process's way to the rows; `enter` makes it so for a context."""

    def __init__(self, file: DatabaseFile, network: Network, clock: Callable[[], datetime], on_commit: Callable[[], None]) -> None:
        self.network = network
        self.on_commit = on_commit
        self.database = Database(cast(Any, file.engine), clock)
        self._file = file
        self._in_use: list[Connection] = []

    def enter(self) -> None:
        """From here on, this context's transactions are this process's."""
        _ROWS.set(self)

    def connect(self) -> Connection:
        """A connection of this process."""
        self._in_use.append(self._file.take())
        return self._in_use[-1]

    def give_back(self, connection: Connection) -> None:
        """It is not used any more."""
        if connection in self._in_use:
            self._in_use.remove(connection)
            self._file.give_back(connection)

    def cut(self) -> None:
        """The process is gone."""
        for connection in list(self._in_use):
            self.give_back(connection)


_ROWS: contextvars.ContextVar[SimulatedDatabase] = contextvars.ContextVar("rows")
