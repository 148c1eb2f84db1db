"""Artifacts: by key, along a signed link, and from a store that has links of its own."""

from datetime import timedelta

import httpx
import pytest

from tests.unit.gateway_http.conftest import RunningGateway, assert_problem
from tests.unit.gateway_http.test_jobs import new_job

FILES = {"model.glb": b"glTF" + bytes(200_000), "report.json": b"{}"}


@pytest.fixture
async def job(api: httpx.AsyncClient, gateway: RunningGateway) -> dict:
    """A completed job."""
    job_id = await new_job(api)
    await gateway.finish(job_id, FILES)
    return (await api.get(f"/api/v1/jobs/{job_id}")).json()


async def test_a_finished_job_lists_its_artifacts(api: httpx.AsyncClient, job: dict) -> None:
    """The same in the job and in the listing; result_url is the model's."""
    assert [artifact["name"] for artifact in job["artifacts"]] == list(FILES)
    assert all(artifact.keys() == {"name", "format", "bytes", "sha256", "url", "expires_at"} for artifact in job["artifacts"])
    assert job["result_url"] == job["artifacts"][0]["url"]
    assert (await api.get(f"/api/v1/jobs/{job['job_id']}/artifacts")).json() == {"artifacts": job["artifacts"]}
    assert (job["report"], job["progress"]) == ({"verdict": "pass"}, 100)


async def test_an_artifact_opens_by_key_and_by_link(api: httpx.AsyncClient, anonymous: httpx.AsyncClient, job: dict) -> None:
    """Byte for byte, with a type and a name, and nothing to sniff."""
    for artifact in job["artifacts"]:
        by_link = await anonymous.get(httpx.URL(artifact["url"]).raw_path.decode())
        by_key = await api.get(f"/api/v1/jobs/{job['job_id']}/artifacts/{artifact['name']}")
        assert by_link.content == by_key.content == FILES[artifact["name"]]
        assert by_link.headers["content-length"] == str(artifact["bytes"])
        assert by_link.headers["x-content-type-options"] == "nosniff"
        assert artifact["name"] in by_link.headers["content-disposition"]
    assert by_link.headers["content-type"] == "application/json"


async def test_a_head_has_no_body(anonymous: httpx.AsyncClient, job: dict) -> None:
    """A client may ask for the size alone."""
    answer = await anonymous.head(httpx.URL(job["result_url"]).raw_path.decode())
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(FILES["model.glb"]))


@pytest.mark.parametrize(
    "change",
    [("model.glb", "report.json"), ("expires=", "expires=9"), ("signature=", "signature=0"), ("signature=", "x="), ("expires=", "x=")],
)
async def test_a_link_cannot_be_widened(anonymous: httpx.AsyncClient, job: dict, change: tuple[str, str]) -> None:
    """Another file, a later end, another signature: 401."""
    path = httpx.URL(job["result_url"]).raw_path.decode().replace(*change)
    assert_problem(await anonymous.get(path), 401, "UNAUTHENTICATED")


async def test_a_stranger_asks_the_database_nothing(
    anonymous: httpx.AsyncClient, gateway: RunningGateway, job: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signature that is none of ours is refused by what the link itself says, as often as anybody sends one."""

    async def asked(*_: object) -> None:
        raise AssertionError("the database was asked")

    for method in ("now", "get_files"):
        monkeypatch.setattr(gateway.app.state.parts.jobs, method, asked)
    mine = httpx.URL(job["result_url"]).raw_path.decode()
    for path in ("/api/v1/jobs/x/artifacts/y?signature=x", "/api/v1/jobs/x/artifacts/y?expires=1&signature=", mine + "0"):
        assert_problem(await anonymous.get(path), 401, "UNAUTHENTICATED")


async def test_a_link_ends(anonymous: httpx.AsyncClient, gateway: RunningGateway, job: dict) -> None:
    """When its time is over it is no key any more."""
    links = gateway.app.state.parts.links
    over = links.sign_link(job["job_id"], "model.glb", await gateway.app.state.parts.jobs.now() - timedelta(seconds=2))
    assert_problem(await anonymous.get(httpx.URL(over).raw_path.decode()), 401, "UNAUTHENTICATED")


async def test_a_name_that_the_job_lacks_is_not_found(api: httpx.AsyncClient, job: dict) -> None:
    """Known names that were not made, unknown ones, tricks."""
    for name in ("mesh.ply", "no-such-file", "..%2f..%2fetc%2fpasswd", "%00"):
        assert_problem(await api.get(f"/api/v1/jobs/{job['job_id']}/artifacts/{name}"), 404, "NOT_FOUND")


async def test_a_store_with_links_is_redirected_to(api: httpx.AsyncClient, gateway: RunningGateway, job: dict, monkeypatch) -> None:
    """302 to a fresh link, good for minutes."""
    asked = []

    async def presign(key: str, expires: timedelta, filename: str, content_type: str) -> str:
        asked.append((expires, filename, content_type))
        return f"http://files.example.org/{key}?signed"

    monkeypatch.setattr(gateway.store, "presign", presign)
    answer = await api.get(f"/api/v1/jobs/{job['job_id']}/artifacts/model.glb")
    assert answer.status_code == 302
    assert answer.headers["location"].startswith("http://files.example.org/jobs/")
    assert asked == [(timedelta(minutes=15), "model.glb", "model/gltf-binary")]


async def test_a_file_that_is_gone_is_not_found(api: httpx.AsyncClient, gateway: RunningGateway, job: dict) -> None:
    """Never half a file."""
    await gateway.store.delete(await gateway.store.list(f"jobs/{job['job_id']}/"))
    assert_problem(await api.get(f"/api/v1/jobs/{job['job_id']}/artifacts/model.glb"), 404, "NOT_FOUND")
