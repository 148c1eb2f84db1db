"""Photos that come with the request: streamed to the store, whatever they are called and however they are broken."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.door_multipart import Part, PartEnd, parts_of
from gateway.problems import Problem
from shared.storage.directory import DirectoryStore
from shared.storage.minio import MinioStore
from tests.support.eventually import eventually
from tests.support.servers import S3Server
from tests.support.small_disk import small_disk
from tests.unit.gateway_http.conftest import KEY, RunningGateway, assert_problem, running_gateway

PHOTOS = [("images", (f"{index}.jpg", bytes([index]) * 1000, "image/jpeg")) for index in range(3)]
FORM = {"content-type": "multipart/form-data; boundary=abc"}


async def stored(gateway: RunningGateway) -> list[str]:
    return [key for key in await gateway.store.list("jobs/") if "/images/" in key]


async def is_empty(gateway: RunningGateway) -> bool:
    return not await stored(gateway)


async def test_an_upload_becomes_a_job_with_its_photos_in_the_store(api: httpx.AsyncClient, gateway: RunningGateway) -> None:
    """Names, order, sizes and sums are recorded; urls are null."""
    answer = await api.post("/api/v1/jobs", files=PHOTOS, data={"request": '{"preset": "fastest", "metadata": {"a": 1}}'})
    assert answer.status_code == 202, answer.text
    job = (await api.get(answer.headers["location"])).json()
    assert [(image["name"], image["url"]) for image in job["images"]] == [("0.jpg", None), ("1.jpg", None), ("2.jpg", None)]
    assert (job["preset"], job["metadata"]) == ("fastest", {"a": 1})
    record = await gateway.app.state.parts.jobs.get_job("default", job["job_id"])
    for index, image in enumerate(record.job.request["images"]):
        data = await gateway.store.get(image["key"])
        assert (data, image["bytes"]) == (bytes([index]) * 1000, 1000)
        assert image["sha256"] == hashlib.sha256(data).hexdigest()
        assert image["key"] == f"jobs/{job['job_id']}/images/{index:03d}_{index}.jpg"


async def test_an_upload_needs_no_request_part(api: httpx.AsyncClient) -> None:
    """Everything in it has a default."""
    assert (await api.post("/api/v1/jobs", files=PHOTOS)).status_code == 202


async def test_hostile_names_stay_names(api: httpx.AsyncClient, gateway: RunningGateway) -> None:
    """Nothing is written outside of the job, nothing twice."""
    names = ["../../etc/x.jpg", "..", "a" * 300 + ".jpg", "same.jpg", "same.jpg", "\u202egpj.exe"]
    answer = await api.post("/api/v1/jobs", files=[("images", (name, b"x", "image/jpeg")) for name in names])
    job = (await api.get(answer.headers["location"])).json()
    assert [image["name"] for image in job["images"]][:2] == ["x.jpg", "photo"]
    assert len({image["name"] for image in job["images"]}) == len(names)
    assert all(key.startswith(f"jobs/{job['job_id']}/images/00") for key in await stored(gateway))


@pytest.mark.parametrize(
    "files, data, status, code",
    [
        (PHOTOS[:2], {}, 422, "TOO_FEW_IMAGES"),
        (PHOTOS * 3, {}, 422, "TOO_MANY_IMAGES"),
        (PHOTOS, {"request": "{"}, 422, "VALIDATION_FAILED"),
        (PHOTOS, {"request": '{"image_urls": []}'}, 422, "VALIDATION_FAILED"),
        (PHOTOS, {"request": '{"callback_url": "http://10.0.0.1/"}'}, 422, "UNSAFE_URL"),
        (PHOTOS, {"request": "{}" + " " * 300_000}, 413, "PAYLOAD_TOO_LARGE"),
        (PHOTOS, {"surprise": "{}"}, 422, "VALIDATION_FAILED"),
        ([*PHOTOS, ("images", ("big.jpg", b"x" * 70_000, "image/jpeg"))], {}, 413, "PAYLOAD_TOO_LARGE"),
        ([("images", (f"{index}.jpg", b"x" * 60_000, "image/jpeg")) for index in range(9)], {}, 413, "PAYLOAD_TOO_LARGE"),
    ],
    ids=["too few", "too many", "no JSON", "wrong field", "unsafe callback", "long request", "unknown part", "large photo", "large body"],
)
async def test_a_refused_upload_leaves_nothing(
    api: httpx.AsyncClient, gateway: RunningGateway, files: list, data: dict, status: int, code: str
) -> None:
    """No job, and its photos are purged."""
    problem = assert_problem(await api.post("/api/v1/jobs", files=files, data=data), status, code)
    assert status != 422 or problem["errors"][0]["loc"][0] == "body"
    assert (await api.get("/api/v1/jobs")).json()["jobs"] == []
    await eventually(lambda: is_empty(gateway))


@pytest.mark.parametrize("kind", ["directory", "minio"])
async def test_a_full_disk_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_server: S3Server, s3_bucket: str, kind: str
) -> None:
    """Of the folder of artifacts, or of the one where photos wait on their way to an S3 store: 503, come again; with room it is taken."""
    with small_disk(tmp_path / "disk", 16 << 20) as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
        minio = MinioStore(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, s3_bucket)
        store = minio if kind == "minio" else DirectoryStore(disk.folder / "artifacts")
        async with running_gateway(tmp_path, store=store) as gateway, gateway.client(**{"X-API-Key": KEY}) as api:
            disk.fill()
            answer = await api.post("/api/v1/jobs", files=PHOTOS)
            problem = assert_problem(answer, 503, "UNAVAILABLE")
            assert (problem["retryable"], answer.headers["retry-after"]) == (True, "2")
            assert (await api.get("/api/v1/jobs")).json()["jobs"] == []
            disk.empty()
            assert (await api.post("/api/v1/jobs", files=PHOTOS)).status_code == 202
        await minio.close()
        assert [path for path in disk.folder.rglob("*") if path.is_file() and path.suffix == ".part"] == []


def archive(size: int) -> bytes:
    """As a ZIP file begins."""
    return b"PK\x03\x04" + bytes(size - 4)


async def test_one_archive_is_enough_and_may_be_larger_than_a_photo(api: httpx.AsyncClient) -> None:
    """By its first bytes, whatever it is called; what is in it, ingest finds out."""
    answer = await api.post("/api/v1/jobs", files=[("images", ("photos", archive(100_000), "image/jpeg"))])
    assert answer.status_code == 202, answer.text
    job = (await api.get(answer.headers["location"])).json()
    assert job["images"] == [{"name": "photos", "url": None, "status": "pending", "reason": None}]
    larger = await api.post("/api/v1/jobs", files=[("images", ("photos.zip", archive(200_001), "application/zip"))])
    assert_problem(larger, 413, "PAYLOAD_TOO_LARGE")
    named = await api.post("/api/v1/jobs", files=[("images", ("photos.zip", b"no archive", "application/zip"))])
    assert_problem(named, 422, "TOO_FEW_IMAGES")


async def test_an_archive_is_known_by_its_first_bytes_however_they_arrive(api: httpx.AsyncClient) -> None:
    """One at a time too."""

    async def slow() -> AsyncIterator[bytes]:
        for byte in IMAGE_HEAD + b"\r\n" + archive(70_000)[:100]:
            yield bytes([byte])
        yield bytes(70_000) + b"\r\n--abc--\r\n"

    assert (await api.post("/api/v1/jobs", content=slow(), headers=FORM)).status_code == 202


IMAGE_HEAD = b'--abc\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n'
NO_FORMS = [b"", b"garbage", b"--abc\r\n", b"--abc\r\n\r\n", b"--xyz--\r\n", b"--abc\r\nno colon\r\n\r\nx\r\n--abc--\r\n"]
HALF_FORMS = [IMAGE_HEAD, IMAGE_HEAD + b"\r\nxxxx", IMAGE_HEAD.replace(b'; filename="a.jpg"', b"") + b"\r\nx\r\n--abc--\r\n"]
HUGE_HEADS = [
    IMAGE_HEAD.replace(b"a.jpg", b"a" * 9000) + b"\r\nx\r\n--abc--\r\n",
    IMAGE_HEAD + b"X-Header: 1\r\n" * 100 + b"\r\nx\r\n--abc--\r\n",
]


@pytest.mark.parametrize("body", [*NO_FORMS, *HALF_FORMS, *HUGE_HEADS], ids=lambda body: str(body)[:50])
async def test_a_form_that_cannot_be_read_is_the_callers_mistake(api: httpx.AsyncClient, body: bytes) -> None:
    """422, however it is broken."""
    assert_problem(await api.post("/api/v1/jobs", content=body, headers=FORM), 422, "VALIDATION_FAILED")


@pytest.mark.parametrize("content_type", ["application/json", "image/jpeg", ""])
async def test_what_is_no_form_is_another_type(api: httpx.AsyncClient, content_type: str) -> None:
    """415."""
    assert_problem(await api.post("/api/v1/jobs", content=b"{}", headers={"content-type": content_type}), 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_a_repeated_upload_gives_the_same_job(api: httpx.AsyncClient) -> None:
    """The form's boundary differs from call to call; what it says does not."""
    headers = {"Idempotency-Key": "upload 1"}
    first, second = [await api.post("/api/v1/jobs", files=PHOTOS, headers=headers) for _ in range(2)]
    assert first.status_code == second.status_code == 202
    assert first.json()["job_id"] == second.json()["job_id"]
    other = await api.post("/api/v1/jobs", files=PHOTOS, data={"request": '{"preset": "quality"}'}, headers=headers)
    assert_problem(other, 409, "IDEMPOTENCY_CONFLICT")


async def test_an_upload_under_way_is_nobodys_job(api: httpx.AsyncClient, gateway: RunningGateway) -> None:
    """Hidden until every photo is stored."""
    gate, reading = asyncio.Event(), asyncio.Event()

    async def slow():
        yield IMAGE_HEAD + b"\r\n"
        reading.set()
        await gate.wait()
        yield b"x\r\n--abc--\r\n"

    upload = asyncio.ensure_future(api.post("/api/v1/jobs", content=slow(), headers=FORM))
    await reading.wait()
    assert (await api.get("/api/v1/jobs")).json()["jobs"] == []
    gate.set()
    assert_problem(await upload, 422, "TOO_FEW_IMAGES")


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=400), cut=st.integers(1, 50), framed=st.booleans())
async def test_no_bytes_break_the_reader_of_forms(body: bytes, cut: int, framed: bool) -> None:
    """Parts, or a problem; nothing else."""
    body = b"--abc\r\n" + body + b"\r\n--abc--\r\n" if framed else body

    async def chunks():
        for start in range(0, len(body), cut):
            yield body[start : start + cut]

    try:
        async for event in parts_of(chunks(), b"abc"):
            assert isinstance(event, Part | bytes | PartEnd)
    except Problem as problem:
        assert problem.code == "VALIDATION_FAILED"
