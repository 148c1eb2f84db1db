"""The database: PostgreSQL in the mesh, SQLite when embedded. Short transactions, one clock, one kind of error.

database = create_engine("sqlite+aiosqlite:///meshwork.db")
async with database.write() as rows:
    rows.session.add(...)
    rows.to_outbox(job_id, "stop", {"reason": "cancelled"})

Whoever changes a job locks its row first (`FOR UPDATE`; on SQLite the one writer), then touches its other rows: no deadlocks.
Whoever is frozen, cut off or gone in the middle of a transaction loses it, and its locks: PostgreSQL ends what was silent for too long.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from gateway.database.clock import read_clock
from gateway.database.models import OutboxRow
from gateway.database.sqlite_connection import connect
from shared.errors import DependencyUnavailable

Clock = Callable[[], datetime]

# Between two statements of a transaction milliseconds pass: whoever says nothing for so long is frozen or cut off, and holds up others.
SILENCE = timedelta(seconds=30)

# When a job's first message is due before the relay lets the job in: waiting jobs are no work for it to look through.
NOT_ADMITTED = datetime(9999, 1, 1, tzinfo=UTC)

_NAME = "meshwork-gateway"
_END_STALLED = text(
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND usename = current_user"
    " AND application_name = :name AND state = 'active' AND wait_event = 'ClientRead' AND xact_start IS NOT NULL"
    " AND state_change < clock_timestamp() - CAST(:silence AS interval)"
)
_RESTS_SINCE = "meshwork.rests_since"
_LONG_REST_S = 1.0
_BUSY_S = 30.0  # how long a SQLite writer waits for one in another process
# SQLSTATE classes that pass by themselves: connection, rollback (deadlock, serialization), resources, operator intervention, system.
_PASSING_STATES = ("08", "40", "53", "55", "57", "58")


class Rows:
    """One transaction. `now` is the database's time, read once."""

    def __init__(self, session: AsyncSession, now: datetime) -> None:
        self.session = session
        self.now = now
        self.wakes: set[str] = set()  # kinds of outbox rows for which the relay looks once this is committed

    def to_outbox(self, job_id: str, kind: str, payload: dict[str, Any], due_at: datetime | None = None) -> None:
        """Adds work for the relay, due now unless said otherwise; it wakes when the transaction is committed."""
        self.session.add(OutboxRow(job_id=job_id, kind=kind, payload=payload, due_at=due_at or self.now))
        self.wakes.add(kind)


class Database:
    """Transactions over one engine. `clock` replaces the database's own time (simulation, tests).

    Every method raises DependencyUnavailable when the database is away.
    """

    def __init__(self, engine: AsyncEngine, clock: Clock | None = None) -> None:
        self.engine = engine
        self._clock = clock
        self._listeners: list[Callable[[Collection[str]], None]] = []
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._writer = asyncio.Lock()
        self._write_engine = engine.execution_options(meshwork_write=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether there is one writer at a time."""
        return self._is_sqlite

    def on_outbox(self, listener: Callable[[Collection[str]], None]) -> None:
        """Calls `listener` with kinds of rows after each commit in this process that added work for the relay."""
        self._listeners.append(listener)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Rows]:
        """A transaction that changes nothing."""
        async with self._transaction(self.engine) as rows:
            yield rows

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Rows]:
        """A transaction that is committed when the block ends without an error."""
        async with self._writer if self._is_sqlite else contextlib.nullcontext(), self._transaction(self._write_engine) as rows:
            yield rows
        if rows.wakes:
            self.wake_relay(rows.wakes)

    def wake_relay(self, kinds: Collection[str]) -> None:
        """There may be work of these kinds for the relay."""
        for listener in self._listeners:
            listener(kinds)

    async def ping(self) -> None:
        """Raises DependencyUnavailable unless the database answers."""
        async with self.read():
            pass

    async def end_stalled(self, silence: timedelta = SILENCE) -> int:
        """Ends transactions whose gateway was frozen between the two halves of a statement, and returns how many.

        PostgreSQL does not call those idle, so its own limit says nothing of them.
        """
        if self._is_sqlite:
            return 0
        async with self.read() as rows:
            return await rows.session.scalar(_END_STALLED, {"name": _NAME, "silence": silence}) or 0

    async def close(self) -> None:
        """Gives every connection back."""
        await self.engine.dispose()

    @asynccontextmanager
    async def _transaction(self, engine: AsyncEngine) -> AsyncIterator[Rows]:
        with database_errors():
            async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
                yield Rows(session, self._clock() if self._clock else await read_clock(session))


def create_engine(url: str, clock: Clock | None = None, silence: timedelta = SILENCE) -> Database:
    """The database at a URL: `sqlite+aiosqlite:///file.db` or `postgresql+asyncpg://…`. Connects when first used.

    `silence`: after which PostgreSQL ends a transaction of ours, and gives what it locked to others.
    """
    if make_url(url).get_backend_name() == "sqlite":
        return Database(_sqlite_engine(url), clock)
    return Database(_postgres_engine(url, silence), clock)


def _postgres_engine(url: str, silence: timedelta) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=10,
        max_overflow=10,
        pool_timeout=10,
        hide_parameters=True,  # errors are logged, and callers' URLs may hold secrets
        pool_use_lifo=True,  # few connections do the work, and have their statements prepared
        connect_args={"timeout": 10, "command_timeout": 30, "server_settings": _server_settings(silence)},
    )
    event.listen(engine.sync_engine, "checkin", _note_rest)
    event.listen(engine.sync_engine, "checkout", _refuse_the_dead)
    return engine


def _server_settings(silence: timedelta) -> dict[str, str]:
    """What PostgreSQL keeps watch over for each connection of ours."""
    limit_ms = silence // timedelta(milliseconds=1)
    return {
        "application_name": _NAME,
        "idle_in_transaction_session_timeout": str(limit_ms),  # who is silent between two statements
        "tcp_user_timeout": str(limit_ms),  # who does not take an answer: then it is not idle
        "lock_timeout": str(limit_ms // 3),  # who waits for a lock is not idle either, and must not be the next to hold it
        "tcp_keepalives_idle": "30",  # a host that vanished keeps its share of all connections for a minute, not for two hours
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
    }


def _note_rest(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_RESTS_SINCE] = time.monotonic()


def _refuse_the_dead(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
    """A restarted server costs nobody a 503: the pool forgets its connections and makes new ones.

    A server that ends says so; one that vanished is asked, by three round trips, where the connection rested for a while.
    """
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError
    if time.monotonic() - record.info.get(_RESTS_SINCE, math.inf) > _LONG_REST_S:
        try:
            connection.ping()
        except Exception as error:  # of the driver's own kinds, whatever became of the connection
            raise InvalidatePoolError from error


def _sqlite_engine(url: str) -> AsyncEngine:
    path = make_url(url).database or ":memory:"
    engine = create_async_engine(url, async_creator=lambda: connect(path, _BUSY_S), hide_parameters=True)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions behind our back
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={int(_BUSY_S * 1000)}", "foreign_keys=ON", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    # A deferred transaction that turns into a writer late fails at once with "database is locked", whatever the timeout.
    writes = connection.get_execution_options().get("meshwork_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def database_errors() -> Iterator[None]:
    """Turns what may pass by itself into DependencyUnavailable; other errors stay what they are."""
    try:
        yield
    except DBAPIError as error:
        if _may_pass(error):
            raise DependencyUnavailable(f"the database: {type(error.orig).__name__}") from error
        raise
    except (PoolTimeout, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DependencyUnavailable(f"the database: {type(error).__name__}") from error


def _may_pass(error: DBAPIError) -> bool:
    state = cast(str | None, getattr(error.orig, "sqlstate", None))
    if state is not None:
        return error.connection_invalidated or state[:2] in _PASSING_STATES
    return error.connection_invalidated or isinstance(error, OperationalError) or (isinstance(error, InterfaceError) and _is_away(error))


def _is_away(error: InterfaceError) -> bool:
    return "connection" in str(error.orig).lower()
