"""Work on one photo beside work on another: OpenCV and numpy's large operations let go of the interpreter, Open3D does not.

Not for compiled loops that are parallel themselves: their threads must not be asked twice at once.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from shared.thread_count import thread_count

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 4  # at a time: each holds a photo or more in memory


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`work` of each item, in the order of the items, on as many threads as this process may use cores; no more than a few results
    wait to be taken."""
    threads = min(thread_count(), MOST)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
