"""The broker's objects, in one place: exchanges, quorum queues, bindings, policies. Everything else is made from this module.

Queue type is an argument; all other behaviour is policy, so that an operator can change it on a running broker.
`python -m shared.broker.generate` writes what deploy/rabbitmq holds from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

from shared.contracts.routing import (
    DEAD_EXCHANGE,
    DEAD_TRACKER_QUEUE,
    EVENTS_EXCHANGE,
    RETRY_DELAYS_S,
    RETRY_EXCHANGE,
    STAGES,
    TRACKER_QUEUE,
    WEBHOOKS_QUEUE,
    WORK_EXCHANGE,
    dead_queue,
    retry_queue,
    stage_queue,
)

# Generations of RabbitMQ that take different policy keys. An unknown key refuses the whole import.
V3_10 = "3.10"  # Debian 12; good for every 3.x from there on
V4 = "4"
VERSIONS = (V3_10, V4)

QUEUE_ARGUMENTS: dict[str, str] = {"x-queue-type": "quorum"}
DELIVERY_LIMIT = 20  # far above the 5 lost workers at which we give up ourselves: a net for messages that kill before that is read
# Above everything that a worker may do with one message in hand: waiting for a dependency, then computing up to the step's hard limit.
STAGE_CONSUMER_TIMEOUT = timedelta(hours=12)
CONSUMER_TIMEOUT = timedelta(hours=1)  # a webhook call takes seconds, a batch of the tracker less; the rest is a dependency that is away
WAL_BYTES = 64 << 20  # of the log that a node's quorum queues share: as much of it as is not begun anew is in memory, about a thousand jobs


@dataclass(frozen=True)
class Policy:
    """What queues with matching names do. `None` means: the broker need not know."""

    name: str
    pattern: str
    ttl: timedelta | None = None
    dead_letter_exchange: str | None = None
    delivery_limit: int | None = None  # None: never dropped, however often it comes back
    consumer_timeout: timedelta | None = None


@dataclass(frozen=True)
class Queue:
    """A durable quorum queue, what it is for, and the (exchange, pattern) pairs that bring messages to it."""

    name: str
    purpose: str
    bindings: tuple[tuple[str, str], ...]
    policy: Policy


@dataclass(frozen=True)
class Topology:
    """All of it. Exchanges (name -> purpose) are durable topic exchanges."""

    exchanges: Mapping[str, str]
    queues: tuple[Queue, ...]

    def queue(self, name: str) -> Queue:
        """The queue with this name."""
        return next(queue for queue in self.queues if queue.name == name)

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Every policy once. Their patterns do not overlap: only one policy applies to a queue."""
        return tuple(dict.fromkeys(queue.policy for queue in self.queues))


_TRACKER_POLICY = Policy("tracker", r"^gateway\.", consumer_timeout=CONSUMER_TIMEOUT)
_PARKING_POLICY = Policy("parking", r"^dead\.")  # evidence: looking at it in the management UI must not use it up

_EXCHANGES = {
    WORK_EXCHANGE: "What there is to do. The routing key is the name of the queue.",
    RETRY_EXCHANGE: "What is to be done later. The routing key is <delay>.<queue>.",
    EVENTS_EXCHANGE: "What happened to steps and webhooks.",
    DEAD_EXCHANGE: "What was given up, by a worker or by the broker. The routing key ends with the queue that it was given up on.",
}


def build_topology(retry_delays_s: Mapping[str, float] = RETRY_DELAYS_S, delivery_limit: int = DELIVERY_LIMIT) -> Topology:
    """The topology; tests may shorten what the retry queues wait, and lower the limit."""
    return Topology(_EXCHANGES, (*_work_queues(delivery_limit), _tracker_queue(), *_retry_queues(retry_delays_s), *_dead_queues()))


def _work_queues(delivery_limit: int) -> list[Queue]:
    stages_policy = Policy("stages", r"^stage\.", None, DEAD_EXCHANGE, delivery_limit, STAGE_CONSUMER_TIMEOUT)
    webhooks_policy = Policy("webhooks", r"^webhooks\.", None, DEAD_EXCHANGE, delivery_limit, CONSUMER_TIMEOUT)
    stages = [
        Queue(stage_queue(stage), f"Steps for the {stage} workers.", ((WORK_EXCHANGE, f"#.{stage_queue(stage)}"),), stages_policy)
        for stage in STAGES
    ]
    return [*stages, Queue(WEBHOOKS_QUEUE, "Webhook calls to make.", ((WORK_EXCHANGE, f"#.{WEBHOOKS_QUEUE}"),), webhooks_policy)]


def _tracker_queue() -> Queue:
    # `#.`: what the broker itself dead-letters keeps its routing key, which is 10s.stage.sfm after a retry.
    dead_letters = tuple((DEAD_EXCHANGE, pattern) for pattern in ("#.stage.*", f"#.{WEBHOOKS_QUEUE}"))
    return Queue(
        TRACKER_QUEUE, "Events and dead letters for the gateway's tracker.", ((EVENTS_EXCHANGE, "#"), *dead_letters), _TRACKER_POLICY
    )


def _retry_queues(delays_s: Mapping[str, float]) -> list[Queue]:
    return [
        Queue(
            retry_queue(delay),
            f"Waits {delay}, then goes back to the work queue that its routing key ends with.",
            ((RETRY_EXCHANGE, f"{delay}.#"),),
            Policy(retry_queue(delay), rf"^retry\.{delay}$", ttl=timedelta(seconds=seconds), dead_letter_exchange=WORK_EXCHANGE),
        )
        for delay, seconds in delays_s.items()
    ]


def _dead_queues() -> list[Queue]:
    sources = [*(stage_queue(stage) for stage in STAGES), WEBHOOKS_QUEUE]
    parking = [
        Queue(
            dead_queue(source),
            f"What was given up on {source}, with the reason in its headers.",
            ((DEAD_EXCHANGE, f"#.{source}"),),
            _PARKING_POLICY,
        )
        for source in sources
    ]
    unread = Queue(DEAD_TRACKER_QUEUE, "What the tracker could not read.", ((DEAD_EXCHANGE, f"#.{TRACKER_QUEUE}"),), _PARKING_POLICY)
    return [*parking, unread]


TOPOLOGY = build_topology()


def generation(release: str) -> str:
    """Which of `VERSIONS` a server of this release, e.g. `3.10.8`, belongs to."""
    return V3_10 if release.startswith("3.") else V4


def definitions(vhost: str, version: str = V4, topology: Topology = TOPOLOGY) -> dict[str, Any]:
    """What `load_definitions`, `rabbitmqctl import_definitions` and the management API take: all but users and permissions.

    Passwords are not a matter of topology: deploy/rabbitmq/start.sh adds the user from the environment.
    """
    queues = [
        {"name": queue.name, "vhost": vhost, "durable": True, "auto_delete": False, "arguments": QUEUE_ARGUMENTS}
        for queue in topology.queues
    ]
    exchanges = [
        {"name": name, "vhost": vhost, "type": "topic", "durable": True, "auto_delete": False, "internal": False, "arguments": {}}
        for name in topology.exchanges
    ]
    bindings = [
        {"source": exchange, "vhost": vhost, "destination": queue.name, "destination_type": "queue", "routing_key": key, "arguments": {}}
        for queue in topology.queues
        for exchange, key in queue.bindings
    ]
    policies = [
        {"vhost": vhost, "name": policy.name, "pattern": policy.pattern, "apply-to": "queues", "priority": 10}
        | {"definition": policy_keys(policy, version)}
        for policy in topology.policies
    ]
    return {"vhosts": [{"name": vhost}], "policies": policies, "exchanges": exchanges, "queues": queues, "bindings": bindings}


def policy_keys(policy: Policy, version: str) -> dict[str, str | int]:
    """A policy in the broker's words. Per-queue consumer timeouts came with 3.12, a limit that can be switched off with 4.0."""
    keys: dict[str, str | int] = {"overflow": "reject-publish"}  # at-least-once dead-lettering asks for it
    if policy.ttl is not None:
        keys["message-ttl"] = milliseconds(policy.ttl)
    if policy.dead_letter_exchange is not None:
        keys["dead-letter-exchange"] = policy.dead_letter_exchange
        keys["dead-letter-strategy"] = "at-least-once"
    if policy.delivery_limit is not None:
        keys["delivery-limit"] = policy.delivery_limit
    elif version != V3_10:
        keys["delivery-limit"] = -1  # 4.x defaults to 20, 3.x to none and refuses -1
    if policy.consumer_timeout is not None and version != V3_10:
        keys["consumer-timeout"] = milliseconds(policy.consumer_timeout)
    return keys


def milliseconds(duration: timedelta) -> int:
    """As RabbitMQ counts."""
    return int(duration / timedelta(milliseconds=1))


@lru_cache(maxsize=4096)
def matches(pattern: str, routing_key: str) -> bool:
    """Whether a topic exchange routes the key to a queue bound by the pattern (`*` one word, `#` any number)."""
    return _words_match(tuple(pattern.split(".")), tuple(routing_key.split(".")))


def _words_match(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_words_match(pattern[1:], words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _words_match(pattern[1:], words[1:])
