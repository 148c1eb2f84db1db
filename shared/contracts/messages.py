"""What travels on `work`: claim checks under 16 KiB, references only."""

from pydantic import FiniteFloat

from shared.contracts.base import SCHEMA_VERSION, Contract, Id
from shared.contracts.routing import deterministic_id
from shared.contracts.slip import RoutingSlip, Step
from shared.contracts.split import Split

MAX_MESSAGE_BYTES = 16 << 10
SPLIT_VERSION = 2  # of messages about a split: workers that know nothing of splits leave them to those that do


class StageMessage(Contract):
    """Do step `position` of this job. With `split`: a part of it, or, without `part`, what follows once every part is made."""

    schema_version: int = SCHEMA_VERSION
    job_id: Id
    slip: RoutingSlip
    position: int
    attempt: int = 1  # counted tries of this step, from 1
    resumed: int = 0  # embedded: how often a restart published this step again
    corrupt_findings: int = 0  # damaged inputs found so far along the slip
    reduction: int = 0  # 1 after OUT_OF_MEMORY: compute at a lower resolution
    generation: int = 0  # how often the division of this step was given up
    split: str | None = None  # how a round of this step is divided
    part: str | None = None  # the part of it to do
    closer: str | None = None  # of what follows a round: the part that found none missing; None: whoever goes on in any case

    @property
    def step(self) -> Step:
        """The step to do."""
        return self.slip.steps[self.position]

    def at(self, position: int) -> "StageMessage":
        """The message for another step of the same job, counters of the step started afresh."""
        return self.whole().model_copy(update={"position": position, "attempt": 1, "resumed": 0, "reduction": 0, "generation": 0})

    def whole(self) -> "StageMessage":
        """The message for the whole step, counters unchanged."""
        return self.model_copy(update={"schema_version": SCHEMA_VERSION, "split": None, "part": None, "closer": None})

    def share(self, split: Split, part: str | None, closer: str | None = None) -> "StageMessage":
        """The message for a part of a split, or for what follows it; tries counted afresh."""
        of_split = {"split": split.id, "reduction": split.reduction, "generation": split.generation, "closer": closer}
        return self.model_copy(update={"schema_version": SPLIT_VERSION, "part": part, "attempt": 1, **of_split})

    @property
    def message_id(self) -> str:
        """The same for every publish of the same request."""
        counts = (self.attempt, self.resumed, self.corrupt_findings, self.reduction)
        share = (self.generation, self.split or "", self.part or "") if self.split or self.generation else ()
        return deterministic_id(self.job_id, self.step.name, *counts, *share)


class WebhookMessage(Contract):
    """Make this delivery's next call. The body is in the store under `keys.webhook_body`."""

    schema_version: int = SCHEMA_VERSION
    job_id: Id
    delivery_id: Id  # also the webhook-id
    type: str
    url: str
    sealed_secrets: str  # Fernet token of the tenant's secrets, comma-separated
    attempt: int = 1
    schedule_s: tuple[FiniteFloat, ...] = ()  # pauses before attempts 2, 3, …
    body_sha256: str | None = None  # of what is to be sent; None in messages of an earlier gateway
    replay: str = ""  # id of a replay asked for by a person: one call now, the schedule untouched
    tenant: str = ""  # tells tenants apart and names none; empty from gateways that sent none: they are one tenant

    @property
    def message_id(self) -> str:
        """The same for every publish of the same attempt."""
        return deterministic_id(self.delivery_id, self.attempt, self.replay)
