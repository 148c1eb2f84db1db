"""A connection to RabbitMQ that is made again whenever it is lost.

Not aio-pika's robust connection: what it restores cannot tell a delivery of the lost channel from one of the new.
Here every loss ends what hung on the connection, and whoever needs a new one asks for it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import aio_pika
from aio_pika.abc import AbstractConnection
from loguru import logger
from tenacity import AsyncRetrying, RetryCallState, wait_exponential_jitter
from yarl import URL

HEARTBEAT_S = 15  # a dead peer is noticed after about 30 s by the broker and 48 s by us
CONNECT_TIMEOUT_S = 20.0
PREPARE_TIMEOUT_S = 60.0  # the very first time, two dozen quorum queues are made
PAUSE_AFTER_LOSS_S = 0.2  # a broker that closes at once must not be called in a tight loop


class Link:
    """One named connection. `on_connected` prepares each new one (declares the topology); until it succeeds the link is down."""

    def __init__(self, url: str, name: str, on_connected: Callable[[AbstractConnection], Awaitable[None]]) -> None:
        self._url = URL(url).update_query(heartbeat=HEARTBEAT_S) if "heartbeat" not in URL(url).query else URL(url)
        self._name = name
        self._on_connected = on_connected
        self._connection: AbstractConnection | None = None
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether there is a connection now."""
        return self._up.is_set()

    async def connection(self) -> AbstractConnection:
        """The connection; waits for it while there is none."""
        await self._up.wait()
        assert self._connection is not None
        return self._connection

    async def connect(self) -> None:
        """Returns when the link is up for the first time; keeps it up from then on."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name=self._name)
        await self._up.wait()

    async def close(self) -> None:
        """Ends the connection for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._up.clear()
        if self._connection is not None:
            await _close(self._connection)

    async def _keep(self) -> None:
        while True:
            self._connection = await self._connected()
            logger.info("connected to the broker", connection=self._name)
            self._up.set()
            await lost(self._connection)
            self._up.clear()
            logger.warning("lost the connection to the broker", connection=self._name)
            await _close(self._connection)
            await asyncio.sleep(PAUSE_AFTER_LOSS_S)

    async def _connected(self) -> AbstractConnection:
        # No limit on attempts: a server that is late must never end a process.
        forever = AsyncRetrying(wait=wait_exponential_jitter(multiplier=0.2, max=10, jitter=0.5), before_sleep=self._tell)
        return await forever(self._try_to_connect)

    async def _try_to_connect(self) -> AbstractConnection:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            connection = await aio_pika.connect(self._url, client_properties={"connection_name": self._name})
        try:
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                await self._on_connected(connection)
        except BaseException:
            await _close(connection)
            raise
        return connection

    def _tell(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        place = f"{self._url.host}:{self._url.port}{self._url.path}"  # without user and password
        logger.warning("waiting for the broker at {}: {}", place, f"{type(error).__name__}: {error}", connection=self._name)


async def lost(connection: AbstractConnection) -> None:
    """Returns when the connection has ended, for whatever reason."""
    if connection.transport is not None:
        await asyncio.wait([connection.transport.connection.closing])


async def is_blocked(connection: AbstractConnection) -> bool:
    """Whether the broker refuses publications on it now (memory or disk alarm)."""
    if connection.transport is None:
        return True
    try:
        async with asyncio.timeout(0.01):
            await connection.transport.connection.ready()
    except TimeoutError:
        return True
    return False


async def _close(connection: AbstractConnection) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(5):
            await connection.close()
