"""What the gateway lets in, what it refuses, and in which order it looks."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.unit.gateway_http.conftest import KEY, URLS, RunningGateway, assert_problem, running_gateway

POST = "/api/v1/reconstruct"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    """One for all: none of these tests minds the jobs of another."""
    async with running_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


async def refused(api: httpx.AsyncClient, code: str = "VALIDATION_FAILED", **fields: object) -> dict:
    """The problem that a request with these fields meets."""
    return assert_problem(await api.post(POST, json={"image_urls": URLS} | fields), 422, code)


@pytest.mark.parametrize(
    "headers", [{}, {"X-API-Key": "x"}, {"Authorization": f"Basic {KEY}"}, {"Authorization": "Bearer"}, {"X-API-Key": ""}]
)
@pytest.mark.parametrize(
    "path", ["jobs", "reconstruct", "jobs/x", "no-such-thing", "jobs/x/artifacts/model.glb", "jobs/x/events", "capabilities"]
)
async def test_the_key_comes_before_everything_else(anonymous: httpx.AsyncClient, path: str, headers: dict) -> None:
    """Broken body, unknown id, unknown address: without the key it is 401."""
    for method in ("GET", "POST", "PUT"):
        answer = await anonymous.request(method, f"/api/v1/{path}", content=b"{", headers=headers)
        assert_problem(answer, 401, "UNAUTHENTICATED")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("headers", [{"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer  {KEY}"}])
async def test_both_spellings_of_the_key_open(anonymous: httpx.AsyncClient, headers: dict) -> None:
    """X-API-Key and Bearer."""
    assert (await anonymous.get("/api/v1/jobs", headers=headers)).status_code == 200


async def test_a_wrong_signature_is_no_key(anonymous: httpx.AsyncClient) -> None:
    """The one address that a link opens without a key does not open by a link that nobody signed."""
    answer = await anonymous.get("/api/v1/jobs/x/artifacts/model.glb?expires=99999999999&signature=00")
    assert_problem(answer, 401, "UNAUTHENTICATED")
    assert_problem(await anonymous.get("/api/v1/jobs?signature=00"), 401, "UNAUTHENTICATED")


@pytest.mark.parametrize(
    "url, status",
    [
        ("http://h.example.org/set.zip", 202),
        ("http://h.example.org/SET.ZIP?x=1.jpg#y", 202),
        ("http://h.example.org/get?name=set.zip", 422),
    ],
)
async def test_one_link_is_enough_where_its_path_ends_as_an_archive_does(api: httpx.AsyncClient, url: str, status: int) -> None:
    """Before it is fetched nothing else tells; beside two photos it needs no such name."""
    answer = await api.post(POST, json={"image_urls": [url]})
    assert answer.status_code == status, answer.text
    assert (await api.post(POST, json={"image_urls": [*URLS[:2], url]})).status_code == 202


@pytest.mark.parametrize(
    "fields, place",
    [
        ({"image_urls": "x"}, ["body", "image_urls"]),
        ({"image_urls": [URLS[0], 1, URLS[0]]}, ["body", "image_urls", 1]),
        ({"image_urls": [*URLS, "ftp://example.org/a.jpg"]}, ["body", "image_urls", 3]),
        ({"image_urls": [*URLS, "http://"]}, ["body", "image_urls", 3]),
        ({"image_urls": [*URLS, "http://user:secret@example.org/a.jpg"]}, ["body", "image_urls", 3]),
        ({"callback_url": ""}, ["body", "callback_url"]),
        ({"callback_url": "nonsense"}, ["body", "callback_url"]),
        ({"preset": "no-such"}, ["body", "preset"]),
        ({"preset": 1}, ["body", "preset"]),
        ({"pipeline": "no-such"}, ["body", "pipeline"]),
        ({"outputs": ["report.json", "no-such"]}, ["body", "outputs", 1]),
        ({"pipeline": "pointcloud", "outputs": ["model.glb"]}, ["body", "outputs", 0]),
        ({"options": []}, ["body", "options"]),
        ({"options": {"mvs": 1}}, ["body", "options", "mvs"]),
        ({"options": {"nothing": {}}}, ["body", "options", "nothing"]),
        ({"pipeline": "pointcloud", "options": {"postprocess": {}}}, ["body", "options", "postprocess"]),
        ({"options": {"mvs": {"no_such_option": 1}}}, ["body", "options", "mvs", "no_such_option"]),
        ({"options": {"mvs": {"views": 10**400}}}, ["body", "options", "mvs", "views"]),
        ({"options": {"segmentation": {"model": {"url": "file:///etc/passwd"}}}}, ["body", "options", "segmentation", "model", "url"]),
        ({"callback_events": ["job.completed", "no.such"]}, ["body", "callback_events", 1]),
        ({"metadata": []}, ["body", "metadata"]),
        ({"metadata": {"text": "x" * 66000}}, ["body", "metadata"]),
        ({"x" * 500: 1}, ["body", "x" * 100]),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_what_is_wrong_is_named(api: httpx.AsyncClient, fields: dict, place: list) -> None:
    """The exact place, in the body's own path."""
    problem = await refused(api, **fields)
    assert place in [error["loc"] for error in problem["errors"]]


async def test_messages_speak_json(api: httpx.AsyncClient) -> None:
    """A caller in another language knows objects and arrays, null and true."""
    problem = await refused(api, metadata=[], outputs={}, options=5)
    assert {error["msg"] for error in problem["errors"]} == {"Input should be a valid object", "Input should be a valid array"}
    assert "null is not" in (await refused(api, options={"mvs": {"views": None}}))["errors"][0]["msg"]


async def test_everything_that_is_wrong_is_told_at_once(api: httpx.AsyncClient) -> None:
    """One round trip shows all mistakes of one kind."""
    problem = await refused(api, outputs=["x"], options={"mvs": {"views": 0, "region": "no"}}, callback_url="x")
    assert {error["loc"][1] for error in problem["errors"]} == {"outputs", "options", "callback_url"}
    assert len(problem["errors"]) == 4


async def test_a_thousand_mistakes_are_not_all_listed(api: httpx.AsyncClient) -> None:
    """An answer stays readable."""
    problem = await refused(api, **{f"field{index}": 1 for index in range(1000)})
    assert len(problem["errors"]) == 50


@pytest.mark.parametrize("count, code", [(0, "TOO_FEW_IMAGES"), (2, "TOO_FEW_IMAGES"), (7, "TOO_MANY_IMAGES")])
async def test_the_number_of_photos_has_its_own_codes(api: httpx.AsyncClient, count: int, code: str) -> None:
    """Counted before links are looked at: what is too long is not read."""
    problem = await refused(api, code, image_urls=["not a url"] * count)
    assert problem["errors"][0]["loc"] == ["body", "image_urls"]


@pytest.mark.parametrize(
    "fields, place",
    [
        ({"image_urls": [*URLS, "http://10.0.0.1/a.jpg"]}, ["body", "image_urls", 3]),
        ({"image_urls": ["http://[::ffff:7f00:2]/a.jpg", *URLS]}, ["body", "image_urls", 0]),
        ({"callback_url": "http://2130706434/hook"}, ["body", "callback_url"]),
        (
            {"options": {"segmentation": {"model": {"url": "http://169.254.169.254/m.onnx", "sha256": "0" * 64}}}},
            ["body", "options", "segmentation", "model", "url"],
        ),
    ],
)
async def test_a_private_address_is_unsafe_wherever_it_stands(api: httpx.AsyncClient, fields: dict, place: list) -> None:
    """Photos, callbacks, and links in options."""
    assert (await refused(api, "UNSAFE_URL", **fields))["errors"][0]["loc"] == place


async def test_an_allowed_private_address_passes(api: httpx.AsyncClient) -> None:
    """The operator's list decides."""
    body = {"image_urls": ["http://127.0.0.1:1/a.jpg"] * 3, "callback_url": "http://127.0.0.1/hook"}
    assert (await api.post(POST, json=body)).status_code == 202


BROKEN = [b"", b"{", b"[]", b"null", b"1", b"\xff\xfe", b"\xef\xbb\xbf{}", b"{}{}"]
TOO_DEEP = [b"[" * 100_000, b'{"a": ' + b"[" * 5000, b"{" * 5000, b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}"]
ODD_NUMBERS = [b'{"a": 1e999}', b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1' + b"0" * 5000 + b"}"]
TWICE = [b'{"preset": "fastest", "preset": "quality"}', b'{"metadata": {"a": 1, "a": 2}}']
ODD_TEXTS = [b'{"a": "\\ud800"}', b'{"a": "\\u0000"}', b'{"\\u0000": 1}']


@pytest.mark.parametrize("body", [*BROKEN, *TOO_DEEP, *ODD_NUMBERS, *TWICE, *ODD_TEXTS], ids=lambda body: str(body)[:30])
async def test_a_body_that_readers_disagree_about_is_refused(api: httpx.AsyncClient, body: bytes) -> None:
    """422 for everything that is no plain JSON object; never 400, never 500."""
    assert_problem(await api.post(POST, content=body, headers=JSON), 422, "VALIDATION_FAILED")


async def test_a_body_of_very_many_values_is_refused_before_they_are_looked_at(api: httpx.AsyncClient) -> None:
    """Small bodies can hold many values: the walk over them is bounded too."""
    body = b'{"a": [' + b"[]," * 70_000 + b"[]]}"
    assert len(body) < 256 << 10
    problem = assert_problem(await api.post(POST, content=body, headers=JSON), 422, "VALIDATION_FAILED")
    assert problem["errors"] == [{"loc": ["body"], "msg": "the body has more than 100000 commas and opening brackets", "type": "too_long"}]


@pytest.mark.parametrize("levels, status", [(32, 202), (33, 422)])
async def test_metadata_may_be_32_levels_deep(api: httpx.AsyncClient, levels: int, status: int) -> None:
    """Counting the object itself."""
    deep: object = 1
    for _ in range(levels - 1):
        deep = [deep]
    assert status == (await api.post(POST, json={"image_urls": URLS, "metadata": {"deep": deep}})).status_code


async def test_metadata_comes_back_as_it_was_sent(api: httpx.AsyncClient) -> None:
    """Huge integers, every language, empty things."""
    metadata = {"big": 10**300, "ü": "日本", "": None, "list": [1.5, True, {}, []], "minus": -0.0}
    answer = await api.post(POST, json={"image_urls": URLS, "metadata": metadata})
    job = await api.get(answer.headers["location"])
    assert json.loads(job.text)["metadata"] == metadata


async def test_a_large_body_is_cut_off(api: httpx.AsyncClient) -> None:
    """Announced or not."""

    async def chunks():
        for _ in range(40):
            yield b" " * (16 << 10)

    assert_problem(await api.post(POST, content=b" " * (300 << 10), headers=JSON), 413, "PAYLOAD_TOO_LARGE")
    assert_problem(await api.post(POST, content=chunks(), headers=JSON), 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_another_kind_of_body_is_not_read(api: httpx.AsyncClient, content_type: str) -> None:
    """415 says what to send."""
    assert_problem(await api.post(POST, content=b"{}", headers={"content-type": content_type}), 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "é"])
async def test_an_odd_idempotency_key_is_refused(api: httpx.AsyncClient, key: str) -> None:
    """At most 255 printable characters."""
    headers = {"Idempotency-Key": key.encode()}
    assert_problem(await api.post(POST, json={"image_urls": URLS}, headers=headers), 422, "VALIDATION_FAILED")
