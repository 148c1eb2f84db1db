"""What no number of replicas can better: rounds come one after the other, and a part is computed by one replica."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Durations:
    """Seconds of compute. `rounds`: of splitting each, and of its parts; `join`: what comes last."""

    rounds: tuple[tuple[float, tuple[float, ...]], ...]
    join: float

    @property
    def work_s(self) -> float:
        """All of it, one after the other."""
        return self.ideal_s(1)

    def ideal_s(self, replicas: int) -> float:
        """From the first split to the end of the join, if messages, files and the store took no time: no schedule is faster."""
        return sum(split + least_seconds(parts, replicas) for split, parts in self.rounds) + self.join


def least_seconds(parts: Sequence[float], replicas: int) -> float:
    """A lower bound of the time in which parts of these durations can be made.

    Their sum over the replicas; and, as of the k·n + 1 longest parts some replica makes k + 1: the sum of the k + 1 shortest of those.
    """
    longest = sorted(parts, reverse=True)
    crowded = (sum(longest[k * replicas - k : k * replicas + 1]) for k in range((len(longest) - 1) // replicas + 1) if longest)
    return max([sum(longest) / replicas, *crowded])
