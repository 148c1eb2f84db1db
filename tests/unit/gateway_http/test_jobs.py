"""Jobs over HTTP: made, looked at, listed, cancelled, deleted."""

import asyncio
import base64
from pathlib import Path

import httpx
import pytest

from tests.unit.gateway_http.conftest import KEY, URLS, assert_problem, running_gateway

UNKNOWN = "00000000-0000-0000-0000-000000000000"
FIELDS = {"job_id", "status", "stage", "progress", "created_at", "started_at", "finished_at", "preset", "metadata", "queue_position"}
FIELDS |= {"stages", "images", "warnings", "error", "artifacts", "report"}


async def new_job(api: httpx.AsyncClient, **fields: object) -> str:
    answer = await api.post("/api/v1/reconstruct", json={"image_urls": URLS} | fields)
    assert answer.status_code == 202, answer.text
    return answer.json()["job_id"]


async def test_an_accepted_job_is_there_at_once(api: httpx.AsyncClient) -> None:
    """202, a location, and every field from the first answer on."""
    answer = await api.post("/api/v1/reconstruct", json={"image_urls": URLS, "metadata": {"n": 1}, "preset": "fastest"})
    assert answer.json()["status"] == "queued" and answer.json()["message"]
    assert answer.headers["location"] == f"/api/v1/jobs/{answer.json()['job_id']}"
    job = (await api.get(answer.headers["location"])).json()
    assert job.keys() >= FIELDS
    assert (job["status"], job["stage"], job["progress"], job["preset"], job["metadata"]) == ("queued", None, 0, "fastest", {"n": 1})
    assert [step["name"] for step in job["stages"]] == ["ingest", "segmentation", "sfm", "mvs", "postprocess", "export"]
    assert job["images"] == [{"name": f"{i}.jpg", "url": url, "status": "pending", "reason": None} for i, url in enumerate(URLS)]
    assert job["created_at"].endswith("Z") and job["error"] is None and job["artifacts"] == []


async def test_the_request_is_recorded_as_the_stages_need_it(api: httpx.AsyncClient, gateway) -> None:
    """Outputs in the pipeline's order with the report among them, options in the slip over the preset's."""
    options = {"mvs": {"views": 6}}
    job_id = await new_job(api, pipeline="pointcloud", outputs=["pointcloud.ply", "pointcloud.ply"], options=options, preset="fastest")
    record = await gateway.app.state.parts.jobs.get_job("default", job_id)
    assert record.job.request["outputs"] == ["pointcloud.ply", "report.json"]
    mvs = next(step for step in record.job.slip["steps"] if step["name"] == "mvs")
    assert mvs["params"]["views"] == 6 and mvs["params"]["levels"] == [4, 2]
    assert record.job.callback_events == ["job.completed", "job.failed", "job.cancelled"]


async def test_a_job_of_high_priority_goes_before_those_that_wait(tmp_path: Path) -> None:
    """Its place in the queue says so while all places in flight are taken; another word is refused."""
    async with running_gateway(tmp_path, in_flight=1) as gateway, gateway.client(**{"X-API-Key": KEY}) as api:
        first = await new_job(api, priority="high")
        waiting = [await new_job(api) for _ in range(2)]
        urgent = await new_job(api, priority="high")
        jobs = (await api.get("/api/v1/jobs")).json()["jobs"]
        assert {job["job_id"]: job["queue_position"] for job in jobs} == {first: 1, urgent: 2, waiting[0]: 3, waiting[1]: 4}
        assert {job["job_id"]: job["priority"] for job in jobs}[urgent] == "high"
        refused = await api.post("/api/v1/reconstruct", json={"image_urls": URLS, "priority": "urgent"})
        assert_problem(refused, 422, "VALIDATION_FAILED")


async def test_one_idempotency_key_makes_one_job(api: httpx.AsyncClient) -> None:
    """All at once and once more; another body is a conflict."""
    headers = {"Idempotency-Key": "order 17"}

    async def post(body: dict) -> httpx.Response:
        return await api.post("/api/v1/reconstruct", json=body, headers=headers)

    answers = await asyncio.gather(*(post({"image_urls": URLS}) for _ in range(6)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert_problem(await post({"image_urls": URLS, "metadata": {"x": 1}}), 409, "IDEMPOTENCY_CONFLICT")


async def test_a_key_is_free_again_when_its_job_is_deleted(api: httpx.AsyncClient) -> None:
    """It lives as long as the job."""
    headers = {"Idempotency-Key": "again"}
    first = await api.post("/api/v1/reconstruct", json={"image_urls": URLS}, headers=headers)
    assert (await api.delete(first.headers["location"])).status_code == 204
    second = await api.post("/api/v1/reconstruct", json={"image_urls": URLS, "preset": "quality"}, headers=headers)
    assert second.status_code == 202 and second.json()["job_id"] != first.json()["job_id"]


async def test_pages_walk_every_job_once(api: httpx.AsyncClient) -> None:
    """Newest first, while others arrive."""
    made, seen, cursor = [await new_job(api) for _ in range(5)], [], None
    while True:
        page = (await api.get("/api/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        seen += [job["job_id"] for job in page["jobs"]]
        await new_job(api)
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        f"limit={10**20}",
        "limit=x",
        "limit=101",
        "cursor=x",
        "cursor=%00",
        "cursor=" + "x" * 300,
        "cursor=%F0%9F",
        "status=odd",
    ],
)
async def test_an_odd_query_is_named(api: httpx.AsyncClient, query: str) -> None:
    """422 with the query's path."""
    problem = assert_problem(await api.get(f"/api/v1/jobs?{query}"), 422, "VALIDATION_FAILED")
    assert problem["errors"][0]["loc"] == ["query", query.partition("=")[0]]


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00", "2026-01-01T00:00:00+01:00"]
)
async def test_a_forged_cursor_breaks_nothing(api: httpx.AsyncClient, moment: str) -> None:
    """Whoever takes a cursor apart and makes another one is told so."""
    cursor = base64.urlsafe_b64encode(f"{moment} {UNKNOWN}".encode()).decode()
    assert_problem(await api.get("/api/v1/jobs", params={"cursor": cursor}), 422, "VALIDATION_FAILED")


async def test_a_listing_can_be_narrowed(api: httpx.AsyncClient) -> None:
    """By status."""
    kept, gone = await new_job(api), await new_job(api)
    assert (await api.post(f"/api/v1/jobs/{gone}/cancel")).status_code == 202
    cancelled = (await api.get("/api/v1/jobs", params={"status": "cancelled"})).json()["jobs"]
    assert [job["job_id"] for job in cancelled] == [gone]
    assert kept in [job["job_id"] for job in (await api.get("/api/v1/jobs", params={"status": "queued"})).json()["jobs"]]


async def test_a_cancelled_job_stays_cancelled(api: httpx.AsyncClient) -> None:
    """202 at once, then 409."""
    job_id = await new_job(api)
    answer = await api.post(f"/api/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    assert_problem(await api.post(f"/api/v1/jobs/{job_id}/cancel"), 409, "JOB_FINISHED")
    assert (await api.get(f"/api/v1/jobs/{job_id}/artifacts")).json() == {"artifacts": []}
    assert_problem(await api.get(f"/api/v1/jobs/{job_id}/artifacts/model.glb"), 404, "NOT_FOUND")


async def test_a_deleted_job_was_never_there(api: httpx.AsyncClient) -> None:
    """204, then 404 for everything."""
    job_id = await new_job(api)
    assert (await api.delete(f"/api/v1/jobs/{job_id}")).status_code == 204
    for path in ("", "/artifacts", "/webhooks", "/events"):
        assert_problem(await api.get(f"/api/v1/jobs/{job_id}{path}"), 404, "NOT_FOUND")
    assert_problem(await api.delete(f"/api/v1/jobs/{job_id}"), 404, "NOT_FOUND")


@pytest.mark.parametrize("job_id", [UNKNOWN, "none", "%00", "%2e%2e", "é", "x" * 4000, "' OR 1=1", "A" * 36])
async def test_an_id_that_names_no_job_is_not_found(api: httpx.AsyncClient, job_id: str) -> None:
    """However it is spelt, at every address below it."""
    for method, path in [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/artifacts"), ("GET", "/artifacts/model.glb")]:
        assert_problem(await api.request(method, f"/api/v1/jobs/{job_id}{path}"), 404, "NOT_FOUND")
    for method, path in [("GET", "/webhooks"), ("POST", "/webhooks/none/replay"), ("GET", "/events")]:
        assert_problem(await api.request(method, f"/api/v1/jobs/{job_id}{path}"), 404, "NOT_FOUND")


async def test_a_job_is_not_found_by_another_spelling_of_its_id(api: httpx.AsyncClient) -> None:
    """An id is a text: no case folding, no braces."""
    job_id = await new_job(api)
    for spelling in (job_id.upper(), job_id.replace("-", ""), f"{{{job_id}}}", job_id + "%20"):
        if spelling != job_id:
            assert_problem(await api.get(f"/api/v1/jobs/{spelling}"), 404, "NOT_FOUND")


async def test_unknown_addresses_and_methods_answer_in_the_same_shape(api: httpx.AsyncClient) -> None:
    """404 and 405, also outside of /api."""
    assert_problem(await api.get("/api/v1/no-such-thing"), 404, "NOT_FOUND")
    assert_problem(await api.get("/no-such-thing"), 404, "NOT_FOUND")
    assert_problem(await api.get("/api/v1/jobs/"), 404, "NOT_FOUND")
    answer = await api.put("/api/v1/jobs")
    assert_problem(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"]


async def test_an_unfinished_job_has_no_artifacts_yet(api: httpx.AsyncClient) -> None:
    """Too early is told apart from never."""
    job_id = await new_job(api)
    assert_problem(await api.get(f"/api/v1/jobs/{job_id}/artifacts"), 409, "JOB_NOT_FINISHED")
    assert_problem(await api.get(f"/api/v1/jobs/{job_id}/artifacts/model.glb"), 409, "JOB_NOT_FINISHED")


async def test_queued_jobs_know_their_place(api: httpx.AsyncClient) -> None:
    """Counted from 1, in the order of admission."""
    ids = [await new_job(api) for _ in range(3)]
    places = [(await api.get(f"/api/v1/jobs/{job_id}")).json()["queue_position"] for job_id in ids]
    assert places == [1, 2, 3]
