"""Live events of jobs, read from the rows: one query a second per replica, whatever the number of watchers.

async for event in story(feed, await load(), load, last_seen=None):
    ...  # {"type": "init"}, {"type": "progress"} …, {"type": "complete" | "error"}

A story goes on for as long as its job, and a job's document may be megabytes: it is kept as bytes, until it has been told.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from loguru import logger

from gateway.database.records import FINISHED, LiveState
from gateway.problems import Problem
from shared.errors import DependencyUnavailable

POLL_S = 1.0

# Asks for what changed: job id -> version last seen. Answers with newer states, None for a job that is gone.
StatesSince = Callable[[Mapping[str, int]], Awaitable[Mapping[str, LiveState | None]]]


@dataclass(frozen=True)
class Snapshot:
    """A job as it was just now; `document` is what callers see of it, as JSON in UTF-8."""

    state: LiveState
    error: dict[str, Any] | None
    document: bytes

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing more to come."""
        return self.state.status in FINISHED


# Reads the job. Raises Problem NOT_FOUND.
LoadJob = Callable[[], Awaitable[Snapshot]]


@dataclass(frozen=True)
class LiveEvent:
    """One event, as JSON in UTF-8, and the version of the row that it was read from."""

    version: int
    text: bytes


class FeedClosed(Exception):
    """This replica ends: whoever watches comes back to another one."""


class Watch:
    """One watcher of one job: always the latest state, never a queue of old ones."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.version = 0
        self._latest: LiveState | None = None
        self._news = asyncio.Event()
        self._over = False

    def tell(self, state: LiveState | None) -> None:
        """What a poll found; None when the job is gone."""
        self._latest = state
        self.version = state.version if state else self.version
        self._news.set()

    def end(self) -> None:
        """There will be no more news."""
        self._over = True
        self._news.set()

    async def next(self) -> LiveState | None:
        """The next state that was told; None when the job is gone. Raises FeedClosed when there will be no more."""
        await self._news.wait()
        if self._over:
            raise FeedClosed
        self._news.clear()
        return self._latest


class LiveFeed:
    """Asks the database for the state of every watched job, once a second, while somebody watches."""

    def __init__(self, states_since: StatesSince, poll_s: float = POLL_S) -> None:
        self._states_since = states_since
        self._poll_s = poll_s
        self._watches: set[Watch] = set()
        self._poller: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def watched(self) -> list[str]:
        """The jobs that are watched now, once per watcher."""
        return [watch.job_id for watch in self._watches]

    @contextlib.contextmanager
    def watch(self, job_id: str) -> Iterator[Watch]:
        """A watcher, told of changes until the block ends."""
        watch = Watch(job_id)
        self._watches.add(watch)
        if self._closed:
            watch.end()
        elif self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    async def close(self) -> None:
        """Ends polling, and every story that is being told."""
        self._closed = True
        for watch in self._watches:
            watch.end()
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    async def _poll(self) -> None:
        while self._watches:
            await asyncio.sleep(self._poll_s)
            try:
                await self._tell_news(list(self._watches))
            except DependencyUnavailable as error:
                logger.warning("live events wait for the database: {}", error)

    async def _tell_news(self, watches: list[Watch]) -> None:
        seen: dict[str, int] = {}
        for watch in watches:
            seen[watch.job_id] = min(watch.version, seen.get(watch.job_id, watch.version))
        news = await self._states_since(seen) if seen else {}
        for watch in watches:
            state = news.get(watch.job_id)
            if watch.job_id in news and (state is None or state.version > watch.version):
                watch.tell(state)


async def story(feed: LiveFeed, now: Snapshot, load: LoadJob, last_seen: int | None = None) -> AsyncGenerator[LiveEvent, None]:
    """A job's events from `now` to its end. `last_seen` is the version that a reconnecting caller knows: what it saw is not repeated.

    Raises FeedClosed when this replica ends before the job does.
    """
    with feed.watch(now.state.job_id) as watch:
        version, is_over = now.state.version, now.has_ended
        opening = _opening(now, last_seen)
        del now  # what follows may take hours
        if opening is not None:
            yield opening
            del opening
        while not is_over:
            state = await watch.next()
            if state is not None and state.version <= version:
                continue
            is_over = state is None or state.status in FINISHED
            if state is not None and not is_over:
                version = state.version
                yield LiveEvent(version, _progress(state))
        yield await _ending(load, version)


async def _patiently(load: LoadJob) -> Snapshot:
    while True:
        try:
            return await load()
        except DependencyUnavailable:
            await asyncio.sleep(POLL_S)


def _opening(now: Snapshot, last_seen: int | None) -> LiveEvent | None:
    if last_seen is None:
        return LiveEvent(now.state.version, _with_document({"type": "init"}, now))
    return LiveEvent(now.state.version, _progress(now.state)) if now.state.version > last_seen and not now.has_ended else None


def _progress(state: LiveState) -> bytes:
    return _text({"type": "progress", "stage": state.stage, "progress": state.progress, "message": state.message})


async def _ending(load: LoadJob, version: int) -> LiveEvent:
    try:
        now = await _patiently(load)
    except Problem:
        return LiveEvent(version, _text(_DELETED))
    kind = "complete" if now.state.status == "completed" else "error"
    return LiveEvent(now.state.version, _with_document({"type": kind, "status": now.state.status, "error": now.error}, now))


def _with_document(content: dict[str, Any], now: Snapshot) -> bytes:
    return _text(content)[:-1] + b',"job":' + now.document + b"}"


def _text(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


_DELETED = {
    "type": "error",
    "status": "deleted",
    "error": {"code": "NOT_FOUND", "message": "The job was deleted.", "stage": None, "hint": "", "retryable": False},
    "job": None,
}
