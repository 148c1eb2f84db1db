"""What every turn of a worker works with."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from shared.ports import ArtifactStore, Broker
from shared.runtime.compute import Compute
from shared.runtime.last_read import LastRead
from shared.runtime.patience import OnState
from shared.runtime.settings import WorkerSettings
from shared.runtime.workfolder import WorkFolder


@dataclass(frozen=True)
class Tools:
    """Adapters, and the sources of time, ids and randomness, so that a simulation can choose them."""

    broker: Broker
    store: ArtifactStore
    compute: Compute
    settings: WorkerSettings
    folder: WorkFolder
    on_state: OnState
    new_id: Callable[[], str]
    now: Callable[[], datetime]
    rng: random.Random
    last_read: LastRead = field(default_factory=LastRead)
