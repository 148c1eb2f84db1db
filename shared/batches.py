"""Work in batches: the one rule of whatever shares it among replicas by number."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item")


def batches_of(items: Sequence[Item], most: int) -> list[Sequence[Item]]:
    """All of them in order, in as few batches of at most `most` as there can be, near to equal in number."""
    count = -(-len(items) // most)
    ends = [len(items) * k // count for k in range(count + 1)] if count else []
    return [items[low:high] for low, high in pairwise(ends)]
