"""Whether the servers that this process needs answer: asked at most once a second, however many ask us, since anybody may."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from loguru import logger

KEPT_S = 1.0
_PING_S = 3.0
# Raises DependencyUnavailable when the dependency is away.
Ping = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Dependency:
    """A server that this process needs. Without a required one it takes no requests; for the others, requests wait."""

    ping: Ping
    required: bool


@dataclass(frozen=True)
class _Found:
    at: float
    answers: Mapping[str, bool]


class Readiness:
    """Each dependency's latest answer. `clock`: seconds that never go back."""

    def __init__(self, dependencies: Mapping[str, Dependency], clock: Callable[[], float] = time.monotonic) -> None:
        self.dependencies = dependencies
        self._clock = clock
        self._turn = asyncio.Lock()
        self._found: _Found | None = None

    async def answers(self) -> Mapping[str, bool]:
        """By name, whether it answered within the last second. Who comes while they are being asked hears the same answers."""
        async with self._turn:
            if self._found is None or self._clock() - self._found.at >= KEPT_S:
                found = await asyncio.gather(*(_answers(dependency) for dependency in self.dependencies.values()))
                self._found = _Found(self._clock(), dict(zip(self.dependencies, found, strict=True)))
            return self._found.answers


async def _answers(dependency: Dependency) -> bool:
    try:
        async with asyncio.timeout(_PING_S):
            await dependency.ping()
    except Exception as error:  # whatever it is, it is no answer
        logger.debug("a dependency does not answer: {}", type(error).__name__)
        return False
    return True
