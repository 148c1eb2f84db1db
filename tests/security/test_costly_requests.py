"""What one request can make the gateway do before it is refused: everything else that it serves waits on the same event loop meanwhile."""

import encodings.idna
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway import door_json
from gateway.auth import MAX_OFFERED_KEYS, caller_of_subprotocols
from gateway.door import MAX_IDNA_HOSTS, Door
from gateway.door_json import parse_object
from gateway.problems import MAX_ERRORS, Problem
from gateway.tenants import Tenants
from shared.http.addresses import PUBLIC_ONLY, check_url
from tests.unit.gateway_http.conftest import KEY, URLS, RunningGateway, running_gateway, settings_for_tests

MIB = 1 << 20
EARLIER = {"preset": "balanced", "pipeline": "photogrammetry", "options": {}, "outputs": None}
ZEROS = [0] * 90_000
NAMES = {f"{index:x}": 0 for index in range(25_000)}


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def door(gateway: RunningGateway) -> Door:
    return replace(gateway.app.state.parts.door, max_images=1000)


@pytest.fixture
def prepared_labels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Labels of host names that were looked up character by character."""
    labels: list[str] = []
    nameprep = encodings.idna.nameprep

    def noted(label: str) -> str:
        labels.append(label)
        return nameprep(label)

    monkeypatch.setattr(encodings.idna, "nameprep", noted)
    return labels


def refusal(check: Callable[[], object]) -> tuple[Problem, int]:
    """The problem, and the bytes that it took at most to find it."""
    tracemalloc.start()
    try:
        with pytest.raises(Problem) as caught:
            check()
        return caught.value, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "code", "place"),
    [
        ({"image_urls": ZEROS}, "TOO_MANY_IMAGES", ["body", "image_urls"]),
        ({"image_urls": URLS} | NAMES, "VALIDATION_FAILED", ["body", "0"]),
        ({"image_urls": URLS, "callback_events": ZEROS}, "VALIDATION_FAILED", ["body", "callback_events"]),
        ({"image_urls": URLS, "outputs": ZEROS}, "VALIDATION_FAILED", ["body", "outputs"]),
        ({"image_urls": URLS, "options": NAMES}, "VALIDATION_FAILED", ["body", "options"]),
        ({"image_urls": URLS, "options": {"sfm": NAMES}}, "VALIDATION_FAILED", ["body", "options"]),
        ({"image_urls": URLS, "options": {"mvs": {"levels": ZEROS}}}, "VALIDATION_FAILED", ["body", "options"]),
        ({"image_urls": URLS, "options": {"mvs": {"levels": [0] * 5000}}}, "VALIDATION_FAILED", ["body", "options", "mvs", "levels"]),
    ],
    ids=["links", "names", "events", "outputs", "steps", "options", "large option", "small option"],
)
def test_very_many_mistakes_take_no_memory(door: Door, body: dict[str, Any], code: str, place: list[str | int]) -> None:
    """Of a body below 300 KB as of one below 4 MiB: each of its values was once some kilobytes of messages, of which fifty were told."""
    problem, peak_bytes = refusal(lambda: door.check_links(body))
    assert (problem.code, problem.errors[0].loc) == (code, place)
    assert len(problem.errors) <= MAX_ERRORS
    assert peak_bytes < MIB


@pytest.mark.parametrize("body", [NAMES, {"options": {"sfm": NAMES}}, {"outputs": ZEROS}], ids=lambda body: next(iter(body)))
def test_a_retry_is_bounded_alike(door: Door, body: dict[str, Any]) -> None:
    """Its fields are another model's."""
    problem, peak_bytes = refusal(lambda: door.check_retry(body, EARLIER))
    assert problem.code == "VALIDATION_FAILED" and len(problem.errors) <= MAX_ERRORS
    assert peak_bytes < MIB


def test_mistakes_that_somebody_may_make_are_told_together(door: Door) -> None:
    """Links that are no text, of a list that is not too long, and unknown names: as many as an answer tells."""
    with pytest.raises(Problem) as caught:
        door.check_links({"image_urls": [URLS[0], *range(30)]} | NAMES)
    told = [error.loc for error in caught.value.errors]
    assert told == [["body", "image_urls", index] for index in range(1, 31)] + [["body", name] for name in list(NAMES)[:20]]


@pytest.mark.parametrize(("value", "count"), [(b"0,", 100_000), (b"{},", 50_000), (b'[""],', 50_000)], ids=str)
def test_very_many_values_are_refused_before_one_is_made(value: bytes, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value takes ten times the memory of its text."""
    monkeypatch.setattr(door_json.json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(Problem) as caught:
        parse_object(b'{"metadata": {"a": [' + value * count + b"0]}}")
    assert [error.type for error in caught.value.errors] == ["too_long"]


async def test_the_largest_metadata_of_the_smallest_values_is_taken(gateway: RunningGateway) -> None:
    """No bound of values stands in front of the bound of its bytes."""
    async with gateway.client(**{"X-API-Key": KEY}) as api:
        for count, status in (((64 << 10) // 2 - 10, 202), ((64 << 10) // 2 + 10, 422)):
            body = {"image_urls": URLS, "metadata": {"a": [0] * count}}
            answer = await api.post("/api/v1/reconstruct", content=json.dumps(body, separators=(",", ":")))
            assert answer.status_code == status, answer.text


def test_where_a_value_is_costs_nothing_until_it_is_told() -> None:
    """Thousands of names sixty levels down."""
    names = ",".join(f'"{index}":0' for index in range(20_000))
    deep = '{"a":' * 60 + "{" + names + "%s}" + "}" * 60
    parsed_bytes = 20_000 * 400
    tracemalloc.start()
    parse_object((deep % "").encode())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < parsed_bytes
    with pytest.raises(Problem) as caught:
        parse_object((deep % r',"x":"\u0000"').encode())
    assert caught.value.errors[0].loc == ["body", *["a"] * 60, "x"]


def test_a_host_that_is_too_long_for_a_name_is_not_looked_up(prepared_labels: list[str]) -> None:
    """A thousand labels, each fit for a name."""
    with pytest.raises(ValueError, match="is no host name"):
        check_url("http://" + "é." * 1000 + "example.org/a.jpg", PUBLIC_ONLY)
    assert prepared_labels == []


def test_links_to_very_many_hosts_of_other_scripts_are_refused_before_one_is_looked_up(door: Door, prepared_labels: list[str]) -> None:
    """As many as are taken, with any number of photos on them, and any path, are taken."""
    links = [f"http://é{index}.example.org/a.jpg" for index in range(MAX_IDNA_HOSTS + 1)]
    with pytest.raises(Problem, match="at most 32 hosts"):
        door.check_links({"image_urls": links})
    assert prepared_labels == []
    taken = [f"{link}?{index}" for link in links[:-1] for index in range(10)] + [f"http://h{i}.example.org/é.jpg" for i in range(100)]
    assert door.check_links({"image_urls": taken}).image_urls == tuple(taken)
    assert len(prepared_labels) == MAX_IDNA_HOSTS


def test_links_that_are_all_wrong_are_looked_at_until_enough_is_told(door: Door, prepared_labels: list[str]) -> None:
    """What is no name is not remembered either: each link to it costs as much as the first."""
    with pytest.raises(Problem) as caught:
        door.check_links({"image_urls": ["http://é_é&.example.org/a.jpg"] * 1000})
    assert len(caught.value.errors) == MAX_ERRORS
    assert len(prepared_labels) <= MAX_ERRORS


def test_a_socket_offers_few_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can reach the port may offer thousands in one head, and each is compared with all that are known."""
    known = Tenants(settings_for_tests())
    asked: list[str] = []
    caller_of = known.caller_of
    monkeypatch.setattr(known, "caller_of", lambda key: (asked.append(key), caller_of(key))[1])
    assert caller_of_subprotocols(known, ["chat", f"meshwork.key.{KEY}"]) is not None
    assert caller_of_subprotocols(known, [f"meshwork.key.{index}" for index in range(4000)]) is None
    assert len(asked) == 1 + MAX_OFFERED_KEYS
