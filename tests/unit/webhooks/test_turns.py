"""Who is called next: what one tenant's receivers do to its own webhooks and to others'."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.webhooks import turns as turns_module
from services.webhooks.turns import NoTurn, ShareUsedUp, Turns
from shared.contracts.messages import WebhookMessage
from shared.contracts.routing import HEADER_WAITED, RETRY_EXCHANGE, retry_queue
from shared.http.posting import Answer
from shared.ports import Publication
from shared.storage.directory import DirectoryStore
from tests.support.eventually import eventually
from tests.unit.webhooks.world import BODY, Post, ScriptedPoster, World, message, world


@dataclass
class SomeNeverAnswer(ScriptedPoster):
    """URLs that say so are never answered; the others at once."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        if "never" not in url:
            return await super().post(url, body, headers)
        self.posts.append(Post(url, body, dict(headers)))
        return await asyncio.get_running_loop().create_future()  # until it is cancelled


class EveryBody(DirectoryStore):
    """Has the body of every delivery, without a file for each."""

    async def get(self, key: str, max_bytes: int = 0) -> bytes:
        return BODY

    async def exists(self, key: str) -> bool:
        return False


async def publish_all(w: World, count: int, tenant: str, url: Callable[[int], str]) -> None:
    """So many deliveries of one tenant."""
    for i in range(count):
        await w.publish(message(delivery_id=f"{tenant}-{i}", url=url(i), tenant=tenant))


def put_aside(w: World) -> list[str]:
    """Tenants of what goes to wait from now on, in order."""
    tenants: list[str] = []
    publish = w.broker.publish

    async def watched(publication: Publication) -> None:
        if publication.exchange == RETRY_EXCHANGE:
            tenants.append(json.loads(publication.body)["tenant"])
        await publish(publication)

    w.broker.publish = watched  # type: ignore[method-assign]
    return tenants


@pytest.mark.parametrize("tenants", [1, 3])
async def test_hosts_that_never_answer_hold_up_their_own_tenant_alone(tmp_path: Path, tenants: int) -> None:
    """However many names they have: behind hundreds of their webhooks another tenant's is called while theirs still wait."""
    async with world(tmp_path, SomeNeverAnswer(), store=EveryBody(tmp_path), grace_s=0.1) as w:
        for tenant in range(tenants):
            await publish_all(w, 200, f"t{tenant}", lambda i, tenant=tenant: f"http://h{i}.never{tenant}.example/")  # type: ignore[misc]
        await publish_all(w, 1, "honest", lambda _: "http://quick.example/")
        await eventually(lambda: [event["delivery_id"] for event in w.events()] == ["honest-0"], 10)

        begun = len(w.http.posts) - 1
        assert 22 <= begun < 32
        await eventually(lambda: sum(w.waiting().values()) == 200 * tenants - begun, 10)


@pytest.mark.parametrize("hosts", [1, 100])
async def test_a_thousand_webhooks_to_quick_hosts_are_called_without_being_put_aside(tmp_path: Path, hosts: int) -> None:
    """Alone and beside a tenant whose hosts never answer."""
    async with world(tmp_path, SomeNeverAnswer(), store=EveryBody(tmp_path), grace_s=0.1) as w:
        aside = put_aside(w)
        await publish_all(w, 500, "honest", lambda i: f"http://quick{i % hosts}.example/")
        await publish_all(w, 100, "other", lambda i: f"http://h{i}.never.example/")
        await publish_all(w, 500, "late", lambda i: f"http://quick{i % hosts}.example/")
        await eventually(lambda: len(w.events()) == 1000, 30)

        assert {event["outcome"] for event in w.events()} == {"delivered"}
        assert set(aside) == {"other"}


async def test_who_shares_a_host_with_another_tenant_does_not_wait_for_its_calls(tmp_path: Path) -> None:
    """A path of another's server that never answers keeps no webhook from that server."""
    async with world(tmp_path, SomeNeverAnswer(), store=EveryBody(tmp_path), grace_s=0.1) as w:
        await publish_all(w, 40, "other", lambda _: "http://shared.example/never")
        await publish_all(w, 1, "honest", lambda _: "http://shared.example/hook")
        await eventually(lambda: [event["delivery_id"] for event in w.events()] == ["honest-0"], 10)

        assert len(w.http.posts) == 5


async def test_a_message_of_an_older_gateway_is_delivered(tmp_path: Path) -> None:
    """It says nothing of a tenant."""
    async with world(tmp_path, ScriptedPoster()) as w:
        await w.store_body(message())
        await w.publish(message(), json.dumps(message().model_dump(mode="json", exclude={"tenant"})).encode())
        await w.settled()

        assert [event["outcome"] for event in w.events()] == ["delivered"]


@pytest.mark.parametrize(("waited", "queue"), [(0, "10s"), (1, "1m"), (5, "1m"), (6, "5m"), (1000, "5m")])
async def test_what_waits_for_its_tenants_share_comes_back_ever_less_often(tmp_path: Path, waited: int, queue: str) -> None:
    """Ten seconds, then minutes, then five: thousands of them cost others little. It is the same attempt for as long as it takes."""
    async with world(tmp_path, SomeNeverAnswer(), store=EveryBody(tmp_path), webhook_prefetch=4, grace_s=0.1) as w:
        await publish_all(w, 3, "t", lambda i: f"http://h{i}.never.example/")
        await eventually(lambda: len(w.http.posts) == 3)
        wanted = message(tenant="t")
        await w.publish(wanted, headers={HEADER_WAITED: waited})
        await eventually(lambda: w.waiting() == {queue: 1}, 5)

        (waiting,) = w.server.ready(retry_queue(queue))
        assert (waiting.headers[HEADER_WAITED], waiting.publication.body) == (waited + 1, wanted.to_bytes())


async def test_an_attempt_that_was_made_begins_the_waiting_anew(tmp_path: Path) -> None:
    """The next one is of the same tenant, and was not put aside yet."""
    async with world(tmp_path, ScriptedPoster([Answer(500)])) as w:
        await w.store_body(message(tenant="t"))
        await w.publish(message(tenant="t"), headers={HEADER_WAITED: 7})
        await eventually(lambda: w.waiting() == {"10s": 1}, 5)

        (waiting,) = w.server.ready(retry_queue("10s"))
        again = WebhookMessage.model_validate_json(waiting.publication.body)
        assert (again.tenant, again.attempt, waiting.headers[HEADER_WAITED]) == ("t", 2, 0)


class Caller:
    """Takes a turn and keeps it until `end`."""

    def __init__(self, turns: Turns, host: str, tenant: str = "t") -> None:
        self.called = False
        self._over = asyncio.Event()
        self.task = asyncio.create_task(self._call(turns, host, tenant))

    async def _call(self, turns: Turns, host: str, tenant: str) -> None:
        async with turns.turn(f"http://{host}.example/", tenant):
            self.called = True
            await self._over.wait()

    async def end(self) -> None:
        self._over.set()
        await asyncio.wait({self.task})


async def stands(count: int = 4) -> None:
    """Whoever was let in got as far as it gets now."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_tenant_holds_no_more_than_twice_what_is_free() -> None:
    """Nobody is limited where there is room; a tenant that holds nothing gets a place beside any number of others."""
    turns = Turns(32, 4)
    first = [Caller(turns, f"h{i}") for i in range(32)]
    await stands()
    second = [Caller(turns, f"h{i}", "second") for i in range(10)]
    await stands()
    third = Caller(turns, "h", "third")
    await stands()

    assert [sum(caller.called for caller in callers) for callers in (first, second, [third])] == [22, 7, 1]
    for caller in [*first, *second, third]:
        await caller.end()


async def test_hosts_that_take_their_time_leave_turns_to_others_of_their_tenant() -> None:
    """Who only stands in line takes no place that a call to another host could have."""
    turns = Turns(32, 4)
    slow = [Caller(turns, f"slow{i % 3}") for i in range(24)]
    await stands()
    quick = Caller(turns, "quick")
    await stands()

    assert sum(caller.called for caller in slow) == 12 and quick.called
    for caller in [*slow, quick]:
        await caller.end()


async def test_nobody_waits_behind_calls_that_take_longer_than_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the host, and for the tenant's share: told at once; behind calls that have just begun one waits."""
    monkeypatch.setattr(turns_module, "MOMENT_S", 0.5)
    turns = Turns(6, 1)
    held = [Caller(turns, host) for host in ("a", "a", "b", "c", "d")]
    await stands()
    assert [caller.called for caller in held] == [True, False, True, True, False]  # one stands in line, one waits for a place
    await eventually(held[-1].task.done, 5)
    with pytest.raises(ShareUsedUp):
        await held.pop().task
    at_host, of_share = Caller(turns, "a"), Caller(turns, "e")
    await stands()

    assert at_host.task.done() and type(at_host.task.exception()) is NoTurn
    assert of_share.task.done() and type(of_share.task.exception()) is ShareUsedUp
    for caller in held:
        await caller.end()


async def test_who_waits_is_called_in_the_order_of_arrival_and_who_leaves_gives_back_its_place() -> None:
    """Also when it is cancelled in line or while it waits; then nobody is remembered."""
    turns = Turns(32, 1)
    callers = [Caller(turns, "h") for _ in range(6)]
    await stands()
    for i in (1, 3):
        callers[i].task.cancel()
    await stands()
    order = []
    for i in (0, 2, 4, 5):
        order.append([caller.called for caller in callers])
        await callers[i].end()
        await stands()

    assert [sum(called) for called in order] == [1, 2, 3, 4]
    assert [order[2][4], order[2][5], order[3][5]] == [True, False, True]
    assert turns._lines == {} and turns._free == 32
