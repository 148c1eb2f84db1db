"""The consumer on the broker in memory: what is called, told, retried, parked and dropped."""

import asyncio
import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from shared.broker.memory import MemoryBroker
from shared.contracts.routing import (
    HEADER_CODE,
    HEADER_JOB,
    HEADER_NEWER,
    HEADER_WAITED,
    RETRY_EXCHANGE,
    TRACKER_QUEUE,
    WEBHOOKS_QUEUE,
    retry_queue,
)
from shared.errors import DependencyUnavailable, UnsafeAddress
from shared.http.errors import TimedOut, Unreachable
from shared.http.posting import Answer
from shared.ports import Publication
from shared.sealing import new_seal_key, seal
from shared.storage import keys
from shared.storage.directory import DirectoryStore
from tests.support.eventually import eventually
from tests.unit.webhooks.world import BODY, OLD_SECRET, SEAL_KEY, SECRET, Post, ScriptedPoster, World, hurried, message, pauses, world


async def delivered(w: World, **changes: Any) -> None:
    wanted = message(**changes)
    await w.store_body(wanted)
    await w.publish(wanted)
    await w.settled()


async def test_a_webhook_is_delivered_once(tmp_path: Path) -> None:
    """The stored bytes, signed, once; one event tells it; nothing is left in the broker."""
    async with world(tmp_path, ScriptedPoster()) as w:
        await delivered(w)

        (post,) = w.http.posts
        assert (post.url, post.body) == ("http://receiver.example/hook", BODY)
        assert Webhook(SECRET).verify(post.body, dict(post.headers)) == json.loads(BODY)
        (event,) = w.events()
        assert (event["type"], event["job_id"], event["delivery_id"]) == ("webhook.attempted", "j1", "d1")
        assert (event["outcome"], event["status_code"], event["error"]) == ("delivered", 200, None)
        assert not w.waiting() and not w.parked()


async def test_two_failures_then_success_are_three_calls_with_one_id(tmp_path: Path) -> None:
    """The same bytes and id each time, three attempts with ids of their own."""
    poster = ScriptedPoster([Answer(500), Answer(500), Answer(200)])
    async with world(tmp_path, poster, hurried()) as w:
        await delivered(w, schedule_s=pauses("10s", "1m", "5m"))
        await eventually(lambda: len(w.events()) == 3, 5)

        assert [post.body for post in poster.posts] == [BODY] * 3
        assert {post.headers["webhook-id"] for post in poster.posts} == {"d1"}
        for post in poster.posts:
            Webhook(SECRET).verify(post.body, dict(post.headers))
        assert [(event["outcome"], event["status_code"]) for event in w.events()] == [("failed", 500), ("failed", 500), ("delivered", 200)]
        assert len({event["attempt_id"] for event in w.events()}) == 3
        assert not w.waiting() and not w.parked()


async def test_the_retry_waits_in_the_queue_of_its_pause(tmp_path: Path) -> None:
    """The broker holds it, with the next attempt's number and the job in its headers."""
    async with world(tmp_path, ScriptedPoster([Answer(500)])) as w:
        await delivered(w, attempt=2, schedule_s=pauses("10s", "30m"))

        assert w.waiting() == {"30m": 1}
        (waiting,) = w.server.ready(retry_queue("30m"))
        assert json.loads(waiting.publication.body)["attempt"] == 3
        assert waiting.headers[HEADER_JOB] == "j1"


@pytest.mark.parametrize(("asked", "queue"), [("5", "10s"), ("45", "1m"), ("7200", "2h"), ("nonsense", "10s")])
async def test_a_throttling_receiver_is_given_time(tmp_path: Path, asked: str, queue: str) -> None:
    """Retry-After moves the next call to a later queue; more than an hour is an hour."""
    async with world(tmp_path, ScriptedPoster([Answer(429, asked)])) as w:
        await delivered(w)
        assert w.waiting() == {queue: 1}


async def test_410_parks_at_once(tmp_path: Path) -> None:
    """One call, one event, one message in the parking queue with its reason, and the tracker sees it too."""
    async with world(tmp_path, ScriptedPoster([Answer(410)])) as w:
        await delivered(w)

        assert [event["outcome"] for event in w.events()] == ["parked"]
        (parked,) = w.parked()
        assert (parked.headers[HEADER_CODE], parked.headers[HEADER_JOB]) == ("GONE", "j1")
        assert [m.publication.exchange for m in w.server.ready(TRACKER_QUEUE)] == ["events", "dead"]
        assert not w.waiting() and len(w.http.posts) == 1


async def test_an_exhausted_schedule_parks(tmp_path: Path) -> None:
    """After the last pause's attempt there is no further one."""
    async with world(tmp_path, ScriptedPoster([Answer(500)]), hurried()) as w:
        await delivered(w, schedule_s=pauses("10s", "10s"))
        await eventually(w.parked, 5)

        assert len(w.http.posts) == 3
        assert [event["outcome"] for event in w.events()] == ["failed", "failed", "parked"]
        assert w.parked()[0].headers[HEADER_CODE] == "EXHAUSTED"
        assert json.loads(w.parked()[0].publication.body)["attempt"] == 3


@pytest.mark.parametrize(
    "failure", [UnsafeAddress("it leads to a private address"), TimedOut("no answer"), Unreachable("no connection")], ids=str
)
async def test_a_call_that_cannot_be_made_is_a_failed_attempt(tmp_path: Path, failure: Exception) -> None:
    """The event says why; the schedule goes on."""
    async with world(tmp_path, ScriptedPoster([failure])) as w:
        await delivered(w)

        (event,) = w.events()
        assert (event["outcome"], event["status_code"], event["error"]) == ("failed", None, str(failure))
        assert w.waiting() == {"10s": 1}


async def test_whatever_breaks_a_call_off_is_a_failed_attempt(tmp_path: Path) -> None:
    """An error that nobody thought of costs its delivery this attempt and nobody else anything, though it fills the prefetch."""
    async with world(tmp_path, ScriptedPoster([RuntimeError("never thought of"), Answer(200)]), webhook_prefetch=1) as w:
        await delivered(w)
        await delivered(w, delivery_id="d2")

        assert [(event["delivery_id"], event["outcome"]) for event in w.events()] == [("d1", "failed"), ("d2", "delivered")]
        assert w.events()[0]["error"] == "something went wrong on our side (RuntimeError)"
        assert w.waiting() == {"10s": 1} and not w.parked()


async def test_what_nobody_can_settle_is_parked(tmp_path: Path) -> None:
    """Left unsettled it would take its place of the prefetch for good."""
    async with world(tmp_path, ScriptedPoster([Answer(500), Answer(200)]), webhook_prefetch=1) as w:
        publish = w.broker.publish

        async def refused(publication: Publication) -> None:
            if publication.exchange == RETRY_EXCHANGE:
                raise ValueError("nothing that a broker takes")
            await publish(publication)

        w.broker.publish = refused  # type: ignore[method-assign]
        await delivered(w)
        await delivered(w, delivery_id="d2")

        (parked,) = w.parked()
        assert (parked.headers[HEADER_CODE], parked.headers[HEADER_JOB]) == ("INTERNAL", "j1")
        assert [event["outcome"] for event in w.events()] == ["failed", "delivered"]


async def test_a_damaged_body_is_not_sent(tmp_path: Path) -> None:
    """The attempt fails visibly, asks for the body to be stored again, and the schedule goes on."""
    async with world(tmp_path, ScriptedPoster()) as w:
        wanted = message(body_sha256=hashlib.sha256(BODY).hexdigest())
        await w.store_body(wanted, BODY.replace(b"j1", b"j2"))
        await w.publish(wanted)
        await w.settled()
        assert w.http.posts == []
        assert [(event["outcome"], event["status_code"], event["body_damaged"]) for event in w.events()] == [("failed", None, True)]
        assert "damaged" in w.events()[0]["error"] and w.waiting() == {"10s": 1}

        await w.store_body(wanted)
        await w.publish(wanted)
        await w.settled()
        assert [post.body for post in w.http.posts] == [BODY]
        assert (w.events()[1]["outcome"], w.events()[1]["body_damaged"]) == ("delivered", False)


async def test_no_body_means_drop(tmp_path: Path) -> None:
    """Whoever purged the job wants nothing said any more."""
    async with world(tmp_path, ScriptedPoster()) as w:
        await w.publish(message())
        await w.settled()
        assert (w.http.posts, w.events(), w.parked(), w.waiting()) == ([], [], [], {})


async def test_a_deleted_job_means_drop(tmp_path: Path) -> None:
    """Also while the body is still there."""
    async with world(tmp_path, ScriptedPoster()) as w:
        await w.store.put(keys.deleted("j1"), b"")
        await delivered(w)
        assert (w.http.posts, w.events(), w.parked(), w.waiting()) == ([], [], [], {})


async def test_a_replay_is_one_call(tmp_path: Path) -> None:
    """Its failure, 410 included, is told and changes nothing else; its success is a delivery."""
    async with world(tmp_path, ScriptedPoster([Answer(500), Answer(410), Answer(200)])) as w:
        for replay in ("r1", "r2", "r3"):
            await delivered(w, replay=replay)

        assert [event["outcome"] for event in w.events()] == ["failed", "failed", "delivered"]
        assert not w.waiting() and not w.parked()
        assert {post.headers["webhook-id"] for post in w.http.posts} == {"d1"}


async def test_both_secrets_sign_during_rotation(tmp_path: Path) -> None:
    """A receiver that knows the old or the new one verifies; a call after the rotation of the seal key still can be made."""
    new_key = new_seal_key()
    async with world(tmp_path, ScriptedPoster(), seal_key=f"{new_key},{SEAL_KEY}") as w:
        await delivered(w, sealed_secrets=seal([SECRET, OLD_SECRET], SEAL_KEY))

        for secret in (SECRET, OLD_SECRET):
            Webhook(secret).verify(w.http.posts[0].body, dict(w.http.posts[0].headers))


async def test_secrets_that_cannot_be_unsealed_leave_time_to_repair(tmp_path: Path) -> None:
    """No unsigned call is made; the attempt fails visibly and the schedule goes on."""
    async with world(tmp_path, ScriptedPoster()) as w:
        await delivered(w, sealed_secrets=seal(SECRET, new_seal_key()))

        assert w.http.posts == []
        assert "MESHWORK_SEAL_KEY" in w.events()[0]["error"]
        assert w.waiting() == {"10s": 1}


WHOLE = message().model_dump(mode="json")
UNREADABLE = [
    *(b"", b"{", b"[]", b"null", b"\xff", b"[" * 5000, b'{"job_id": "j1"}', b'{"schema_version": "x"}'),
    *(json.dumps(WHOLE | {name: odd}).encode() for name in ("job_id", "delivery_id") for odd in ("", "..", "a/b", "\ud800")),
    json.dumps(WHOLE | {"url": "http://a.example/\udfff"}).encode(),
]


@pytest.mark.parametrize("body", UNREADABLE)
async def test_a_message_that_nobody_can_read_is_parked(tmp_path: Path, body: bytes) -> None:
    """The queue moves on, and the reason stands in the headers."""
    async with world(tmp_path, ScriptedPoster()) as w:
        await w.publish(message(), body)
        await w.settled()

        (parked,) = w.parked()
        assert parked.publication.body == body
        assert (parked.headers[HEADER_CODE], parked.headers[HEADER_JOB]) == ("INTERNAL", "j1")
        await delivered(w, delivery_id="d2")
        assert len(w.http.posts) == 1


ODD_VALUES = ["", "\ud800", "\0", "a/../b", "x" * 3000, -5, 0, 2**63, 10**400, None, [], {"": "\udfff"}, True, float("nan"), [-1.0, 1e308]]


async def test_no_value_of_any_field_stops_the_webhooks(tmp_path: Path) -> None:
    """Whatever is in a message that is JSON: it is settled one way or another, and nothing is held."""
    async with world(tmp_path, ScriptedPoster([Answer(500)]), webhook_prefetch=4) as w:
        await w.store_body(message())
        for name, odd in itertools.product(WHOLE, ODD_VALUES):
            await w.publish(message(), json.dumps(WHOLE | {name: odd}).encode())
        await w.settled()
        assert w.broker._consumers[0].held == []
        await delivered(w, delivery_id="d2")
        assert w.http.posts[-1].headers["webhook-id"] == "d2"


async def test_a_newer_message_waits_for_the_upgrade(tmp_path: Path) -> None:
    """Put back once a minute, sixty times, then parked."""
    async with world(tmp_path, ScriptedPoster(), hurried(60_000)) as w:
        newer = message().model_dump(mode="json") | {"schema_version": 99, "field_of_tomorrow": 1}
        await w.publish(message(), json.dumps(newer).encode())
        await eventually(w.parked, 10)

        (parked,) = w.parked()
        assert parked.headers[HEADER_NEWER] == 60
        assert json.loads(parked.publication.body) == newer
        assert w.http.posts == []


class LoseFive(ScriptedPoster):
    """Each call ends the connection, as a crash does."""

    lose: Callable[[], None] = staticmethod(lambda: None)

    async def post(self, url: str, body: bytes, headers: Any) -> Answer:
        self.posts.append(Post(url, body, headers))
        self.lose()
        return Answer(200)


@pytest.mark.parametrize(("replay", "outcome"), [("", "parked"), ("r1", "failed")])
async def test_a_call_that_keeps_killing_the_service_is_given_up(tmp_path: Path, replay: str, outcome: str) -> None:
    """After five lost deliveries it is parked as WORKER_LOST without a call; a replay is only told."""
    poster = LoseFive()
    async with world(tmp_path, poster) as w:
        poster.lose = w.broker.drop_connection
        await delivered(w, replay=replay)
        await eventually(lambda: any(event["error"] for event in w.events()), 5)
        await w.settled()

        assert len(poster.posts) == 5
        assert w.events()[-1]["outcome"] == outcome
        assert [m.headers[HEADER_CODE] for m in w.parked()] == ([] if replay else ["WORKER_LOST"])


async def test_a_lost_lease_publishes_no_retry(tmp_path: Path) -> None:
    """The message belongs to somebody else by then: one copy, not two."""
    poster = ScriptedPoster([Answer(500)], gate=asyncio.Event())
    async with world(tmp_path, poster) as w:
        await w.store_body(message())
        await w.publish(message())
        await eventually(lambda: poster.under_way == 1)
        w.broker.drop_connection()
        await eventually(lambda: poster.under_way == 2)
        poster.gate.set()
        await w.settled()
        assert w.waiting() == {"10s": 1}


async def test_one_host_gets_four_calls_at_a_time(tmp_path: Path) -> None:
    """The others wait for their turn, and another host does not wait for them."""
    poster = ScriptedPoster(gate=asyncio.Event())
    async with world(tmp_path, poster) as w:
        for i in range(10):
            wanted = message(delivery_id=f"slow{i}", url=f"http://SLOW.example:80{i}0/")
            await w.store_body(wanted)
            await w.publish(wanted)
        await eventually(lambda: poster.under_way == 4)
        quick = message(delivery_id="quick", url="http://quick.example/")
        await w.store_body(quick)
        await w.publish(quick)
        await eventually(lambda: poster.under_way == 5)

        assert sum("slow" in post.url.lower() for post in poster.posts) == 4
        poster.gate.set()
        await w.settled()
        assert len(poster.posts) == 11


async def test_a_host_that_takes_its_time_holds_nobody_up(tmp_path: Path) -> None:
    """More calls for it than are held at a time: what gets no turn comes back later, uncounted, and another host is called meanwhile."""
    poster = ScriptedPoster(gate=asyncio.Event())
    async with world(tmp_path, poster, webhook_prefetch=16) as w:
        for i in range(40):
            wanted = message(delivery_id=f"slow{i}")
            await w.store_body(wanted)
            await w.publish(wanted)
        quick = message(delivery_id="quick", url="http://quick.example/")
        await w.store_body(quick)
        await w.publish(quick)
        await eventually(lambda: poster.under_way == 5)
        assert poster.posts[-1].url == quick.url

        await eventually(lambda: w.waiting() == {"10s": 32})  # four are called, four wait for their turns
        assert w.events() == []
        poster.gate.set()
        await w.settled()
        assert len(poster.posts) == 9


async def test_stopping_finishes_calls_and_hands_back_the_rest(tmp_path: Path) -> None:
    """What has begun is settled, what waits for its turn goes back uncounted, nothing is lost."""
    poster = ScriptedPoster(gate=asyncio.Event())
    async with world(tmp_path, poster) as w:
        for i in range(6):
            await w.store_body(message(delivery_id=f"d{i}"))
            await w.publish(message(delivery_id=f"d{i}"))
        await eventually(lambda: poster.under_way == 4)
        stopping = asyncio.create_task(w.consumer.stop())
        await asyncio.sleep(0)
        poster.gate.set()
        await stopping

        assert len(poster.posts) == len(w.events()) == 4
        assert w.server.depth(WEBHOOKS_QUEUE) == 2
        assert [ready.delivery_count for ready in w.server.ready(WEBHOOKS_QUEUE)] == [0, 0]
        assert poster.closed


async def test_a_call_that_outlasts_the_grace_period_is_left_to_others(tmp_path: Path) -> None:
    """The process leaves in time; the message is still there."""
    poster = ScriptedPoster(gate=asyncio.Event())
    async with world(tmp_path, poster, grace_s=0.1) as w:
        await w.store_body(message())
        await w.publish(message())
        await eventually(lambda: poster.under_way == 1)
        await w.consumer.stop()
        await w.broker.close()

        assert poster.under_way == 0
        assert w.events() == []
        assert w.server.depth(WEBHOOKS_QUEUE) == 1


async def test_a_broker_that_refuses_is_waited_for_with_the_message_held(tmp_path: Path) -> None:
    """The call is not repeated; the event comes when the broker takes it."""
    poster = ScriptedPoster(gate=asyncio.Event())
    async with world(tmp_path, poster) as w:
        await w.store_body(message())
        await w.publish(message())
        await eventually(lambda: poster.under_way == 1)
        w.server.refuse_publishes()
        poster.gate.set()
        await eventually(lambda: poster.under_way == 0)
        assert w.events() == []
        w.server.accept_publishes()
        await w.settled()

        assert [event["outcome"] for event in w.events()] == ["delivered"]
        assert len(poster.posts) == 1


class StoreThatIsAway(DirectoryStore):
    """Answers nothing."""

    async def get(self, key: str, max_bytes: int = 0) -> bytes:
        raise DependencyUnavailable

    async def ping(self) -> None:
        raise DependencyUnavailable


async def test_a_store_that_stays_away_sends_the_message_to_wait(tmp_path: Path) -> None:
    """Uncounted: the attempt's number stays, the waits are counted in a header, and readiness says what is missing."""
    store = StoreThatIsAway(tmp_path / "away")
    async with world(tmp_path, ScriptedPoster(), store=store, webhook_store_patience_s=0.01) as w:
        await w.publish(message())
        await eventually(lambda: w.waiting() == {"10s": 1}, 5)

        (waiting,) = w.server.ready(retry_queue("10s"))
        assert (json.loads(waiting.publication.body)["attempt"], waiting.headers[HEADER_WAITED]) == (1, 1)
        assert w.consumer.ready() == {"broker": True, "store": False, "consumer": True}
        assert w.http.posts == []


async def test_readiness_follows_the_dependencies(tmp_path: Path) -> None:
    """Ready with broker, store and consumer; not ready once it leaves."""
    async with world(tmp_path, ScriptedPoster()) as w:
        await eventually(lambda: all(w.consumer.ready().values()))
        await w.consumer.stop()
        assert not w.consumer.ready()["consumer"]


async def test_readiness_outlives_an_error_that_nobody_foresaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dependency that fails in a way of its own does not answer; it is asked again."""
    async with world(tmp_path, ScriptedPoster(), dependency_check_s=0.01) as w:
        await eventually(lambda: all(w.consumer.ready().values()))
        with monkeypatch.context() as broken:
            broken.setattr(w.store, "ping", lambda: 1 / 0)
            await eventually(lambda: not w.consumer.ready()["store"])
        await eventually(lambda: w.consumer.ready()["store"])


async def test_what_happened_is_told_before_the_retry_and_the_retry_published_before_the_ack(tmp_path: Path) -> None:
    """Killed at any point, the call is repeated; never is it told too late or forgotten."""
    order: list[str] = []
    async with world(tmp_path, ScriptedPoster([Answer(500)])) as w:
        publish = w.broker.publish

        async def recorded(publication: Publication) -> None:
            order.append(f"{publication.exchange}, {len(w.broker._consumers[0]._held)} held")
            await publish(publication)

        w.broker.publish = recorded  # type: ignore[method-assign]
        await delivered(w)

        assert order == ["events, 1 held", "retry, 1 held"]
        assert w.waiting() == {"10s": 1}


async def test_a_kill_between_call_and_ack_repeats_the_call_with_the_same_id(tmp_path: Path) -> None:
    """At least once: another consumer makes the call again, as a further attempt."""
    first = ScriptedPoster(gate=asyncio.Event())
    async with world(tmp_path, first) as w:
        await w.store_body(message())
        await w.publish(message())
        await eventually(lambda: first.under_way == 1)
        for task in list(w.consumer._under_way):
            task.cancel()
        await eventually(lambda: first.under_way == 0)
        first.gate = None
        w.broker.drop_connection()
        await eventually(lambda: len(w.events()) == 1)

        assert [post.headers["webhook-id"] for post in first.posts] == ["d1", "d1"]
        assert await MemoryBroker(w.server).depth(WEBHOOKS_QUEUE) == 0
