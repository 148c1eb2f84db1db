"""What was tried, what came back, and what should not have come back."""

import heapq
from collections import Counter
from dataclasses import dataclass, field

SLOWEST = 5
MAX_FAULTS = 20


@dataclass
class Tally:
    """Counts of one unit of work, or of many. `counts`: (what, how it ended) -> times; `slow`: (seconds, what)."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slow: list[tuple[float, str]] = field(default_factory=list)

    def note(self, what: str, ending: str, times: int = 1) -> None:
        """One more of these."""
        self.counts[what, ending] += times

    def fault(self, what: str) -> None:
        """Something that breaks a promise."""
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(what)

    def took(self, seconds: float, what: str) -> None:
        """Keeps the slowest."""
        self.slow = heapq.nlargest(SLOWEST, [*self.slow, (seconds, what)])

    def add(self, other: "Tally") -> None:
        """Takes in what another unit found."""
        self.counts += other.counts
        self.faults += other.faults
        self.slow = heapq.nlargest(SLOWEST, [*self.slow, *other.slow])

    def total(self) -> int:
        """How many there were."""
        return self.counts.total()

    def table(self) -> str:
        """A row for each thing tried, a column for each ending."""
        endings = sorted({ending for _, ending in self.counts})
        rows = [["", "all", *endings]]
        for what in sorted({what for what, _ in self.counts}):
            found = [self.counts[what, ending] for ending in endings]
            rows.append([what, str(sum(found)), *(str(count or "") for count in found)])
        sums = [sum(count for (_, of), count in self.counts.items() if of == ending) for ending in endings]
        rows.append(["all", str(self.total()), *map(str, sums)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            " | ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]) for row in rows
        )
