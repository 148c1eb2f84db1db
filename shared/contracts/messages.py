"""What travels on `work`: claim checks under 16 KiB, references only."""

from shared.contracts.base import SCHEMA_VERSION, Contract
from shared.contracts.routing import deterministic_id
from shared.contracts.slip import RoutingSlip, Step

MAX_MESSAGE_BYTES = 16 << 10


class StageMessage(Contract):
    """Do step `position` of this job."""

    schema_version: int = SCHEMA_VERSION
    job_id: str
    slip: RoutingSlip
    position: int
    attempt: int = 1  # counted tries of this step, from 1
    resumed: int = 0  # embedded: how often a restart published this step again
    corrupt_findings: int = 0  # damaged inputs found so far along the slip
    reduction: int = 0  # 1 after OUT_OF_MEMORY: compute at a lower resolution

    @property
    def step(self) -> Step:
        """The step to do."""
        return self.slip.steps[self.position]

    def at(self, position: int) -> "StageMessage":
        """The message for another step of the same job, counters of the step started afresh."""
        return self.model_copy(update={"position": position, "attempt": 1, "resumed": 0, "reduction": 0})

    @property
    def message_id(self) -> str:
        """The same for every publish of the same request."""
        return deterministic_id(self.job_id, self.step.name, self.attempt, self.resumed, self.corrupt_findings, self.reduction)


class WebhookMessage(Contract):
    """Make this delivery's next call. The body is in the store under `keys.webhook_body`."""

    schema_version: int = SCHEMA_VERSION
    job_id: str
    delivery_id: str  # also the webhook-id
    type: str
    url: str
    sealed_secrets: str  # Fernet token of the tenant's secrets, comma-separated
    attempt: int = 1
    schedule_s: tuple[float, ...] = ()  # pauses before attempts 2, 3, …
    replay: str = ""  # id of a replay asked for by a person: one call now, the schedule untouched

    @property
    def message_id(self) -> str:
        """The same for every publish of the same attempt."""
        return deterministic_id(self.delivery_id, self.attempt, self.replay)
