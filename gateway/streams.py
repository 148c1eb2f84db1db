"""How many streams of live events each tenant may have open at this replica: what a slow reader has not taken yet lies in our memory."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from gateway.problems import Problem

PLACE_BYTES = 1 << 20  # a stream whose job's document is larger takes a place more for each of these
_RETRY_AFTER_S = 5


class Streams:
    """Open streams by tenant. `limit_of`: places of a tenant; 0: no limit."""

    def __init__(self, limit_of: Callable[[str], int]) -> None:
        self._limit_of = limit_of
        self._taken: Counter[str] = Counter()

    @contextlib.contextmanager
    def opened(self, tenant: str, document_bytes: int) -> Iterator[None]:
        """Counts a stream until the block ends. Raises Problem TOO_MANY_STREAMS, except for a tenant's only one."""
        limit, places = self._limit_of(tenant), 1 + document_bytes // PLACE_BYTES
        if limit and self._taken[tenant] and self._taken[tenant] + places > limit:
            raise Problem("TOO_MANY_STREAMS", f"At most {limit} streams at a time.", headers={"Retry-After": str(_RETRY_AFTER_S)})
        self._taken[tenant] += places
        try:
            yield
        finally:
            self._taken[tenant] -= places
