"""Every route that the protocol relies on, and the rules that policies must keep."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from shared.broker.topology import STAGE_CONSUMER_TIMEOUT, TOPOLOGY, V3_10, V4, VERSIONS, definitions, generation, matches, policy_keys
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
    retry_key,
    retry_queue,
    stage_queue,
)

WORK_QUEUES = [*(stage_queue(stage) for stage in STAGES), WEBHOOKS_QUEUE]
PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
# What 3.10.8 takes in a policy for queues, of the keys that we use on any version.
KEYS_OF_3_10 = {"overflow", "message-ttl", "dead-letter-exchange", "dead-letter-strategy", "delivery-limit"}


def routed(exchange: str, key: str) -> set[str]:
    """Names of the queues that get a message."""
    return {
        queue.name for queue in TOPOLOGY.queues if any(source == exchange and matches(pattern, key) for source, pattern in queue.bindings)
    }


@pytest.mark.parametrize("queue", WORK_QUEUES)
def test_work_reaches_exactly_its_queue(queue: str) -> None:
    """By the queue's name, and by what a retry leaves in front of it."""
    assert routed(WORK_EXCHANGE, queue) == {queue}
    for delay in RETRY_DELAYS_S:
        assert routed(WORK_EXCHANGE, retry_key(delay, queue)) == {queue}


@pytest.mark.parametrize("delay", RETRY_DELAYS_S)
def test_a_retry_waits_in_exactly_its_queue(delay: str) -> None:
    """And goes back to `work` after the delay that its name says."""
    policy = TOPOLOGY.queue(retry_queue(delay)).policy

    assert {queue for work in WORK_QUEUES for queue in routed(RETRY_EXCHANGE, retry_key(delay, work))} == {retry_queue(delay)}
    assert (policy.ttl, policy.dead_letter_exchange) == (timedelta(seconds=RETRY_DELAYS_S[delay]), WORK_EXCHANGE)


@pytest.mark.parametrize("queue", WORK_QUEUES)
@pytest.mark.parametrize("before", ["", "10s.", "10h."])
def test_what_is_given_up_is_parked_and_told(queue: str, before: str) -> None:
    """Whether we gave it up or the broker did, whether or not it had been retried."""
    assert routed(DEAD_EXCHANGE, before + queue) == {dead_queue(queue), TRACKER_QUEUE}


def test_the_tracker_hears_every_event_and_parks_what_it_cannot_read() -> None:
    """What it gives up does not come back to it."""
    assert {queue for key in ("stage.sfm.completed", "webhook.attempted", "x") for queue in routed(EVENTS_EXCHANGE, key)} == {TRACKER_QUEUE}
    assert routed(DEAD_EXCHANGE, TRACKER_QUEUE) == {DEAD_TRACKER_QUEUE}


@pytest.mark.parametrize("queue", [queue.name for queue in TOPOLOGY.queues])
def test_exactly_one_policy_applies_to_a_queue(queue: str) -> None:
    """RabbitMQ applies only one, and the one that applies is the queue's own."""
    assert [policy for policy in TOPOLOGY.policies if re.search(policy.pattern, queue)] == [TOPOLOGY.queue(queue).policy]


@pytest.mark.parametrize("version", VERSIONS)
def test_only_the_queue_type_is_an_argument(version: str) -> None:
    """All else can be changed on a running broker."""
    assert {tuple(queue["arguments"].items()) for queue in definitions("v", version)["queues"]} == {(("x-queue-type", "quorum"),)}


@pytest.mark.parametrize("version", VERSIONS)
def test_dead_lettering_loses_nothing(version: str) -> None:
    """At least once, which needs reject-publish; and no queue has a length at which it would refuse or drop."""
    for policy in TOPOLOGY.policies:
        keys = policy_keys(policy, version)
        assert keys["overflow"] == "reject-publish" and not any(key.startswith("max-") for key in keys)
        assert ("dead-letter-exchange" in keys) == (keys.get("dead-letter-strategy") == "at-least-once")


@pytest.mark.parametrize(("release", "version"), [("3.10.8", V3_10), ("3.13.19", V3_10), ("4.0.24", V4), ("4.3.6", V4), ("10.0.1", V4)])
def test_a_release_gets_the_definitions_of_its_generation(release: str, version: str) -> None:
    """By its first number."""
    assert generation(release) == version


def test_3_10_gets_only_keys_that_it_knows() -> None:
    """One unknown key refuses the whole import."""
    assert {key for policy in TOPOLOGY.policies for key in policy_keys(policy, V3_10)} <= KEYS_OF_3_10


@pytest.mark.parametrize("queue", [TRACKER_QUEUE, *(dead_queue(queue) for queue in WORK_QUEUES), DEAD_TRACKER_QUEUE])
def test_evidence_and_events_are_never_dropped(queue: str) -> None:
    """No delivery limit, said aloud where the default is 20."""
    policy = TOPOLOGY.queue(queue).policy

    assert (policy_keys(policy, V4)["delivery-limit"], "delivery-limit" in policy_keys(policy, V3_10)) == (-1, False)


def test_no_step_outlives_its_consumer_timeout() -> None:
    """A worker may wait for a dependency as long as the step's hard limit, and then compute as long again."""
    limits = [step["hard_limit_s"] for path in PIPELINES.glob("*.yml") for step in yaml.safe_load(path.read_text())["steps"]]

    assert limits and timedelta(seconds=2 * max(limits)) < STAGE_CONSUMER_TIMEOUT


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("#", "a.b", True),
        ("#", "", True),
        ("#.stage.*", "stage.sfm", True),
        ("#.stage.*", "10s.stage.sfm", True),
        ("#.stage.*", "stage", False),
        ("#.stage.*", "stage.a.b", False),
        ("10s.#", "10s", True),
        ("10s.#", "10sx.a", False),
        ("#.stage.sfm", "xstage.sfm", False),
        ("a.#.b", "a.c.d.b", True),
    ],
)
def test_patterns_mean_what_they_mean_to_rabbitmq(pattern: str, key: str, expected: bool) -> None:
    """`*` is one word, `#` any number, none included."""
    assert matches(pattern, key) is expected
