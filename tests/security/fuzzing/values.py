"""Everything that reads what others wrote, each with what it is tried with: hypothesis draws, and changes of what it drew come on top.

Each reader has an answer of its own for what it cannot read, and no other.
"""

import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import services.webhooks.reading as webhook_reading
import shared.runtime.reading as stage_reading
from gateway import news
from gateway.database.records import Cursor
from gateway.door_json import parse_object
from gateway.door_multipart import parts_of
from gateway.problems import Problem
from services.webhooks.retry_after import seconds_of
from shared.contracts.events import StageStarted
from shared.contracts.messages import StageMessage, WebhookMessage
from shared.contracts.routing import DEAD_EXCHANGE, EVENTS_EXCHANGE
from shared.errors import UnsafeAddress
from shared.http.addresses import AddressPolicy, check_url
from shared.photo_names import harmless, name_in_url, unique_names
from shared.storage import keys
from tests.security.fuzzing import changes, file_values
from tests.security.fuzzing.message_values import JSON, SCALARS, TEXTS, model_values, models, reads_back
from tests.security.fuzzing.tally import Tally
from tests.support.builders import a_message, a_slip

SEEDS = st.integers(0, 2**48)
IN_A_ROW = 200  # examples of one run of hypothesis, which slows down as it grows


@dataclass(frozen=True)
class Reader:
    """`check` takes what `strategy` draws and says how many values it tried.

    `weight`: its share of all values; `least`: examples of it in `make test`.
    """

    name: str
    strategy: st.SearchStrategy[Any]
    check: Callable[[Any], int]
    weight: float
    least: int


def _delivery(body: bytes, headers: dict[str, Any], key: str) -> Any:
    """As a broker hands it over."""
    exchange = DEAD_EXCHANGE if "dead" in key else EVENTS_EXCHANGE
    return SimpleNamespace(body=body, headers=headers, routing_key=key, exchange=exchange, queue=key, message_id="m", delivery_count=0)


_FIELDS = {"schema_version": SCALARS, "job_id": SCALARS, "slip": JSON, "position": SCALARS, "type": JSON}
_HEADERS = st.dictionaries(
    st.sampled_from(["job", "step", "newer", "waited", "x-death", "code", "reason", "meshwork-job"]), SCALARS, max_size=4
)
_KEYS = st.sampled_from(["stage.sfm.completed", "webhook.attempted", "dead.stage.sfm", "stage.sfm", "webhooks.deliver", ""])
MESSAGES = st.tuples(TEXTS, st.fixed_dictionaries({}, optional=_FIELDS), _HEADERS, _KEYS)


def try_message(drawn: tuple[bytes, dict[str, Any], dict[str, Any], str]) -> int:
    """A worker, the webhooks service and the tracker say that they cannot read it, so that it is parked; or it can be settled."""
    body, fields, headers, key = drawn
    for text in (body, json.dumps(fields).encode()):
        _try_delivery(_delivery(text, headers, key))
    return 2


def try_nearly_sound_message(seed: int) -> int:
    """The same for messages that were sound but for a change or two."""
    random = Random(seed)
    for sound in SOUND:
        changed = changes.changed_value(random, json.loads(sound.to_bytes()), random.choice((1, 1, 2)))
        _try_delivery(_delivery(changes.json_bytes(random, changed), {}, "stage.sfm"))
    return len(SOUND)


SOUND = (
    a_message(a_slip(("sfm", "mvs")), "job"),
    WebhookMessage(job_id="job", delivery_id="delivery", type="job.completed", url="http://a.example/", sealed_secrets="gAAAA"),
    StageStarted(job_id="job", step="sfm", position=0, attempt=1),
)


def _try_delivery(one: Any) -> None:
    stage, webhook = stage_reading.read_message(one, "sfm"), webhook_reading.read_message(one)
    if isinstance(stage, StageMessage):
        assert _settles(stage) and keys.checked(keys.stop(stage.job_id))
    if isinstance(webhook, WebhookMessage):
        assert _settles(webhook) and keys.checked(keys.webhook_body(webhook.job_id, webhook.delivery_id))
    for unread in (stage, webhook):
        if isinstance(unread, stage_reading.Unreadable):
            assert unread.reason.encode()
    try:
        fact = news.read_fact(one)
    except news.Unreadable as error:
        assert str(error).encode()
    else:
        assert fact is None or fact.job_id


def _settles(message: StageMessage | WebhookMessage) -> bool:
    """Whether the message can be put back with its counter raised, as most settlements do."""
    again = message.model_copy(update={"attempt": message.attempt + 1})
    return bool(again.to_bytes() and again.message_id)


def try_body(text: bytes) -> int:
    """An object, or VALIDATION_FAILED."""
    try:
        assert isinstance(parse_object(text), dict)
    except Problem as problem:
        assert problem.info.status == 422 and problem.response("/x").status_code == 422
    return 1


def try_cursor(text: str) -> int:
    """One of ours, or a ValueError, which its route answers with 422."""
    with contextlib.suppress(ValueError):
        Cursor.decode(text)
    return 1


_LINES = [b"--edge\r\n", b"--edge--\r\n", b"\r\n", b"\r\n\r\n", b"--edge", b"Content-Disposition: \xff\xfe\r\n", b"x" * 9000, b": \r\n"]
_HEADS = [b'Content-Disposition: form-data; name=images; filename="a\r\n', b'Content-Disposition: form-data; name="x"; filename="../x"\r\n']
FORMS = st.lists(st.sampled_from([*_LINES, *_HEADS]) | st.binary(max_size=30), max_size=12)


def try_form(pieces: list[bytes]) -> int:
    """Parts, or VALIDATION_FAILED."""

    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def read() -> None:
        try:
            async for _ in parts_of(chunks(), b"edge"):
                pass
        except Problem as problem:
            assert problem.info.status == 422

    coroutine = read()  # which waits for nothing, so that no event loop is needed
    with contextlib.suppress(StopIteration):
        coroutine.send(None)
    return 1


_NO_POLICY = AddressPolicy.parse([])
_PIECES = st.sampled_from(
    ["http://", "https://", "@", ":", "/", "[", "]", "%", ".", "127.1", "0x7f", "::1", "#", "?", "\\", "..", *changes.TEXTS]
)
URLS = st.lists(_PIECES | st.text(max_size=6), max_size=6).map("".join)


def try_url(url: str) -> int:
    """It is fit to be called, or refused; where it is fit, its photo has a name that any file system takes."""
    try:
        check_url(url, _NO_POLICY)
    except (UnsafeAddress, ValueError):
        return 1
    name = harmless(name_in_url(url))
    assert name not in {"", ".", ".."} and "/" not in name and "\0" not in name and len(name.encode("utf-8", "surrogateescape")) <= 255
    assert len(set(unique_names([name_in_url(url)] * 3))) == 3
    return 1


_DATES = st.sampled_from(
    ["Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359", "Mon, 30 Feb 2026 25:61:61 GMT", "120", "-1", "1e9"]
)
PAUSES = (
    _DATES
    | st.text(max_size=40)
    | st.builds(lambda date, at, new: date[:at] + new + date[at:], _DATES, st.integers(0, 31), st.text(max_size=3))
)


def try_pause(text: str) -> int:
    """Seconds, or nothing."""
    seconds = seconds_of(text, datetime(2026, 1, 1, tzinfo=UTC))
    assert seconds is None or seconds >= 0
    return 1


def readers() -> list[Reader]:
    """All of them. Weights follow what a value costs and what is to be found."""
    of_models = [Reader(model.__name__, model_values(model), reads_back(model), 2.0, 5) for model in models()]
    of_photos = [Reader(f"photo {kind}", SEEDS, file_values.try_photo(kind), 3.0, 15) for kind in file_values.PHOTOS]
    of_videos = [Reader(f"video {kind}", SEEDS, file_values.try_video(kind), 0.5, 8) for kind in file_values.VIDEOS]
    return [
        *of_models,
        *of_photos,
        *of_videos,
        Reader("archive", SEEDS, file_values.try_archive, 6.0, 30),
        Reader("message", MESSAGES, try_message, 5.0, 20),
        Reader("nearly sound message", SEEDS, try_nearly_sound_message, 5.0, 200),
        Reader("body", TEXTS, try_body, 4.0, 20),
        Reader("cursor", st.text(max_size=80), try_cursor, 1.0, 20),
        Reader("form", FORMS, try_form, 5.0, 20),
        Reader("url", URLS, try_url, 5.0, 20),
        Reader("retry-after", PAUSES, try_pause, 1.0, 20),
    ]


READERS = {reader.name: reader for reader in readers()}


def try_reader(reader: Reader, first_seed: int, count: int) -> Tally:
    """So many values or a few more, in runs of hypothesis that each have a seed of their own."""
    tally, run = Tally(), 0
    while tally.total() < count and not tally.faults:
        tally.add(try_once(reader, first_seed * 100_000 + run, min(IN_A_ROW, count), count - tally.total()))
        run += 1
    return tally


def try_once(reader: Reader, number: int, examples: int, most: float = math.inf) -> Tally:
    """What hypothesis draws in one run, until `most` values were tried."""
    tally = Tally()

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(drawn=reader.strategy)
    def one(drawn: Any) -> None:
        if tally.total() < most:
            tally.note(f"value {reader.name}", "tried", reader.check(drawn))

    try:
        one()
    except Exception as error:
        notes = "\n".join(getattr(error, "__notes__", ()))
        tally.fault(f"value {reader.name}, seed {number}: {error!r}\n{notes}"[:4000])
    return tally
