"""Retry over HTTP: a new job of the same photos, asked for with little."""

import asyncio

import httpx
import pytest

from gateway.database.records import JobRecord
from gateway.door import Door
from gateway.parts import COPIES_AT_ONCE
from shared.errors import ObjectMissing
from shared.storage.minio import THREADS
from tests.unit.gateway_http.conftest import KEY, URLS, RunningGateway, assert_problem

PHOTOS = [("images", (f"{index}.jpg", bytes([index]) * 1000, "image/jpeg")) for index in range(3)]


async def ended_job(api: httpx.AsyncClient, gateway: RunningGateway, **fields: object) -> str:
    answer = await api.post("/api/v1/reconstruct", json={"image_urls": URLS} | fields)
    assert answer.status_code == 202, answer.text
    await gateway.finish(answer.json()["job_id"], {"report.json": b"{}"})
    return answer.json()["job_id"]


async def retried(api: httpx.AsyncClient, job_id: str, **body: object) -> dict:
    answer = await api.post(f"/api/v1/jobs/{job_id}/retry", json=body)
    assert answer.status_code == 202, answer.text
    return (await api.get(answer.headers["location"])).json()


async def record_of(gateway: RunningGateway, job_id: str) -> JobRecord:
    record = await gateway.app.state.parts.jobs.get_job("default", job_id)
    assert record is not None
    return record


async def test_what_is_not_given_stays_as_it_was(api: httpx.AsyncClient, gateway: RunningGateway) -> None:
    """Photos, preset, callback, events, metadata and options are the earlier job's; its options are changed one by one."""
    asked: dict[str, object] = {
        "preset": "fastest",
        "metadata": {"n": 1},
        "callback_url": "http://hooks.example.org/x",
        "callback_events": ["job.failed"],
    }
    asked["priority"] = "high"
    parent = await ended_job(api, gateway, **asked, options={"mvs": {"views": 6}, "postprocess": {"triangles": 7000}})
    job = await retried(api, parent, options={"postprocess": {"triangles": 9000}, "sfm": {"max_num_features": 3000}})
    assert (job["parent"], job["preset"], job["metadata"], job["status"]) == (parent, "fastest", {"n": 1}, "queued")
    assert [image["url"] for image in job["images"]] == URLS and job["job_id"] != parent
    row = (await record_of(gateway, job["job_id"])).job
    assert (row.callback_url, row.callback_events, row.priority) == (asked["callback_url"], asked["callback_events"], 1)
    expected = {"mvs": {"views": 6}, "postprocess": {"triangles": 9000}, "sfm": {"max_num_features": 3000}}
    assert row.request["options"] == expected and row.request["parent"] == parent
    params = {step["name"]: step["params"] for step in row.slip["steps"]}
    assert params["mvs"]["views"] == 6 and params["postprocess"]["triangles"] == 9000


async def test_an_empty_body_asks_for_the_same_again(api: httpx.AsyncClient, gateway: RunningGateway) -> None:
    """No JSON needed: after a failure of ours there is nothing to change."""
    parent = await ended_job(api, gateway, outputs=["model.glb"])
    answer = await api.post(f"/api/v1/jobs/{parent}/retry")
    assert answer.status_code == 202, answer.text
    assert (await record_of(gateway, answer.json()["job_id"])).job.request["outputs"] == ["model.glb", "report.json"]


async def test_another_pipeline_makes_all_that_it_has(api: httpx.AsyncClient, gateway: RunningGateway) -> None:
    """Outputs and options that belong to the old one alone are left behind."""
    parent = await ended_job(api, gateway, options={"mvs": {"views": 6}, "postprocess": {"triangles": 7000}})
    row = (await record_of(gateway, (await retried(api, parent, pipeline="pointcloud"))["job_id"])).job
    assert row.request["outputs"] == ["pointcloud.ply", "cameras.json", "report.json"]
    assert row.request["options"] == {"mvs": {"views": 6}}


async def test_uploaded_photos_become_the_new_jobs_own(api: httpx.AsyncClient, gateway: RunningGateway) -> None:
    """The earlier job may be deleted at once: the photos are there under the new job's keys."""
    answer = await api.post("/api/v1/jobs", files=PHOTOS)
    parent = answer.json()["job_id"]
    await api.post(f"/api/v1/jobs/{parent}/cancel")
    job = await retried(api, parent)
    assert (await api.delete(f"/api/v1/jobs/{parent}")).status_code == 204
    for index, image in enumerate((await record_of(gateway, job["job_id"])).job.request["images"]):
        assert image["key"] == f"jobs/{job['job_id']}/images/{index:03d}_{index}.jpg"
        assert await gateway.store.get(image["key"]) == bytes([index]) * 1000


async def test_a_parent_deleted_while_its_photos_are_copied_is_gone(
    api: httpx.AsyncClient, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """404, and no half job stays."""
    parent = (await api.post("/api/v1/jobs", files=PHOTOS)).json()["job_id"]
    await api.post(f"/api/v1/jobs/{parent}/cancel")

    async def gone(source: str, target: str) -> None:
        raise ObjectMissing(source)

    monkeypatch.setattr(gateway.store, "copy", gone)
    assert_problem(await api.post(f"/api/v1/jobs/{parent}/retry"), 404, "NOT_FOUND")
    assert [job["job_id"] for job in (await api.get("/api/v1/jobs")).json()["jobs"]] == [parent]


async def test_retries_leave_the_store_threads_for_others(
    api: httpx.AsyncClient, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are asked for at once, and however many photos each has."""
    uploaded = (await api.post("/api/v1/jobs", files=PHOTOS)).json()["job_id"]
    await api.post(f"/api/v1/jobs/{uploaded}/cancel")
    copy, under_way, most = gateway.store.copy, 0, 0

    async def counted(source: str, target: str) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        await copy(source, target)
        under_way -= 1

    monkeypatch.setattr(gateway.store, "copy", counted)
    await asyncio.gather(*(retried(api, uploaded) for _ in range(4)))
    assert most == COPIES_AT_ONCE < THREADS


async def test_only_an_ended_job_of_ones_own_is_retried(api: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    """A running one says to wait; an unknown one, and anybody without a key, learns nothing."""
    running = (await api.post("/api/v1/reconstruct", json={"image_urls": URLS})).json()["job_id"]
    problem = assert_problem(await api.post(f"/api/v1/jobs/{running}/retry"), 409, "JOB_NOT_FINISHED")
    assert "cancel" in problem["hint"]
    assert_problem(await api.post("/api/v1/jobs/nope/retry"), 404, "NOT_FOUND")
    assert_problem(await anonymous.post(f"/api/v1/jobs/{running}/retry"), 401, "UNAUTHENTICATED")


@pytest.mark.parametrize(
    "body, loc",
    [
        ({"image_urls": URLS}, ["body", "image_urls"]),
        ({"options": {"mvs": {"nonsense": 1}}}, ["body", "options", "mvs", "nonsense"]),
        ({"options": {"nonsense": {}}}, ["body", "options", "nonsense"]),
        ({"preset": None}, ["body", "preset"]),
        ({"preset": "slowest"}, ["body", "preset"]),
        ({"metadata": None}, ["body", "metadata"]),
        ({"options": 3}, ["body", "options"]),
    ],
)
async def test_a_bad_retry_says_what_is_wrong(api: httpx.AsyncClient, gateway: RunningGateway, body: dict, loc: list) -> None:
    """Checked as a new request is."""
    parent = await ended_job(api, gateway)
    problem = assert_problem(await api.post(f"/api/v1/jobs/{parent}/retry", json=body), 422, "VALIDATION_FAILED")
    assert problem["errors"][0]["loc"] == loc


async def test_a_callback_that_is_no_longer_allowed_is_refused(api: httpx.AsyncClient, gateway: RunningGateway) -> None:
    """What was accepted once is checked again."""
    parent = await ended_job(api, gateway)
    answer = await api.post(f"/api/v1/jobs/{parent}/retry", json={"callback_url": "http://169.254.169.254/x"})
    assert_problem(answer, 422, "UNSAFE_URL")


async def test_one_idempotency_key_makes_one_retry(api: httpx.AsyncClient, gateway: RunningGateway) -> None:
    """For links and for uploads; a retry of another job with it is a conflict."""
    linked = await ended_job(api, gateway)
    uploaded = (await api.post("/api/v1/jobs", files=PHOTOS)).json()["job_id"]
    await api.post(f"/api/v1/jobs/{uploaded}/cancel")
    for parent in (linked, uploaded):
        headers = {"X-API-Key": KEY, "Idempotency-Key": parent}
        calls = (api.post(f"/api/v1/jobs/{parent}/retry", json={}, headers=headers) for _ in range(4))
        answers = await asyncio.gather(*calls)
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["job_id"] for answer in answers}) == 1
    conflict = await api.post(f"/api/v1/jobs/{linked}/retry", json={}, headers={"Idempotency-Key": uploaded})
    assert_problem(conflict, 409, "IDEMPOTENCY_CONFLICT")


def test_options_are_merged_option_by_option(gateway: RunningGateway) -> None:
    """Neither side is changed."""
    door: Door = gateway.app.state.parts.door
    earlier = {"preset": "balanced", "pipeline": "photogrammetry", "options": {"mvs": {"views": 6}}, "outputs": None}
    checked = door.check_retry({"options": {"mvs": {"levels": [4, 2]}}}, earlier)
    assert checked.options == {"mvs": {"views": 6, "levels": [4, 2]}}
    assert earlier["options"] == {"mvs": {"views": 6}}
