"""What happens to one run: its jobs, what goes wrong at steps of the schedule and with calls. A plan follows from its seed."""

import random
from dataclasses import dataclass

KINDS = ("kill", "restart", "cut", "cancel_consumer", "stall", "away", "corrupt", "cancel", "delete")
_WEIGHTS = (8, 3, 4, 2, 3, 2, 3, 5, 5)
HUNT = "hunt"  # the store is away, and again and again somebody is killed who holds a message about a step
CALM_AFTER_S = 400.0

# What can become of a call to broker, store or database.
REFUSED = "refused"  # it never arrives
LOST = "lost"  # it has its effect, the answer never comes
LATE = "late"  # the caller gives up; it has its effect afterwards
TWICE = "twice"  # a message that the broker has two times
CRASH_BEFORE, CRASH_AFTER = "crash before", "crash after"  # the caller is killed
CUT = "cut"  # the caller's connection to the broker ends first: its leases are lost
STALL = "stall"  # the caller stops after it, and does not know
DAMAGED = "damaged"  # a bit flips in what is stored
MISREAD = "misread"  # a bit flips in what is read; what is stored is good
FATES = (REFUSED, LOST, LATE, TWICE, CRASH_BEFORE, CRASH_AFTER, CUT, STALL, DAMAGED, MISREAD)

_HUNTED = 0.05  # of all runs
_CROWDED = 0.04  # of all runs: they take long; in half of those nothing goes wrong
_EARLY = 0.2  # of all runs: their stages finish outputs before the end, which go up meanwhile
_RATES = (0.003, 0.01, 0.03)
_HARSH = {TWICE: 4.0, DAMAGED: 8.0, MISREAD: 8.0}  # few calls publish, store a step's output or read one
_PAUSES_S = (0.5, 5.0, 40.0, 120.0, 600.0)
FREE = 1 << 30


@dataclass(frozen=True)
class Fault:
    """`step`: of the scheduler. `target`: an index into whatever it is about. `seconds`: how long."""

    step: int
    kind: str
    target: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Mishap:
    """What becomes of the run's n-th call. `seconds`: how late, or how long."""

    call: int
    fate: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """`rates`: share of calls that meet each fate; `mishaps`, where given, are what happens in their place.

    `slow`: share of calls that take seconds. `trouble`: how often stages fail by themselves, `deaf`: callers' servers. `linger`: seconds
    for which trackers collect a batch. `crowd`: many workers share steps of many parts. `early`: stages finish outputs before the end.
    `disorder`: how many choices of the scheduler are free; after that the oldest callback is next.
    """

    seed: int
    jobs: int = 1
    faults: tuple[Fault, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()
    mishaps: tuple[Mishap, ...] | None = None
    slow: float = 0.0
    trouble: float = 0.0
    deaf: float = 0.0
    linger: float = 0.02
    crowd: bool = False
    early: bool = False
    disorder: int = FREE

    @staticmethod
    def of(seed: int) -> "Plan":
        """Each seed has its own few kinds of faults: where everything goes wrong at once, most of it is never reached."""
        rng = random.Random(f"plan {seed}")
        crowd = random.Random(f"crowd {seed}").random()
        early = random.Random(f"outputs {seed}").random() < _EARLY
        if crowd < _CROWDED / 2:
            return Plan(seed, rng.choice((1, 1, 2)), slow=rng.choice((0.0, 0.0, 0.02, 0.1)), crowd=True, early=early)
        kinds = _some(rng, KINDS)
        weights = [_WEIGHTS[KINDS.index(kind)] for kind in kinds]
        count = rng.choice((1, 2, 4, 8)) if kinds else 0
        return Plan(
            seed,
            rng.choice((1, 1, 1, 2, 3)),
            _in_order([*(_fault(rng, rng.choices(kinds, weights)[0]) for _ in range(count)), *_hunt(seed)]),
            tuple((fate, rng.choice(_RATES) * _HARSH.get(fate, 1.0)) for fate in _some(rng, FATES)),
            slow=rng.choice((0.0, 0.02, 0.1)),
            trouble=rng.choice((0.0, 0.0, 0.0, 0.1, 0.4)),
            deaf=rng.choice((0.0, 0.0, 0.3, 0.9)),
            linger=rng.choice((0.02, 2.0, 20.0)),
            crowd=crowd < _CROWDED,
            early=early,
        )

    @property
    def faultless(self) -> bool:
        """Nothing goes wrong; calls may be slow."""
        return not (self.faults or self.rates or self.mishaps or self.trouble)


def pause(rng: random.Random) -> float:
    """How long something lasts."""
    return rng.choice(_PAUSES_S)


def _some(rng: random.Random, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """None, a few, or all of them."""
    share = rng.choice((0.0, 0.2, 0.4, 1.0))
    return tuple(kind for kind in kinds if rng.random() < share)


def _in_order(faults: list[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(faults, key=lambda fault: fault.step))


def _hunt(seed: int) -> list[Fault]:
    """In few runs one."""
    rng = random.Random(f"hunt {seed}")
    if rng.random() >= _HUNTED:
        return []
    return [Fault(int(10 ** rng.uniform(1.5, 3.0)), HUNT, rng.randrange(1000), rng.choice((120.0, 240.0)))]


def _fault(rng: random.Random, kind: str) -> Fault:
    return Fault(int(10 ** rng.uniform(1.0, 3.3)), kind, rng.randrange(1000), pause(rng))
