"""No log of the mesh tells a secret: asked last, of whatever jobs ran before on it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest

from deploy.demo.client import follow, submit
from deploy.demo.receiver import CallerBackend
from deploy.native.mesh import Mesh
from deploy.secrets import new_secrets
from shared.contracts.routing import STAGES
from tests.support.log_secrets import secrets_in_logs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OF_THE_CALLER = {"token": "urltoken-RECOGNISED-1", "X-Amz-Signature": "amzsignature-RECOGNISED-2"}
QUERY = "&".join(f"{name}={value}" for name, value in OF_THE_CALLER.items())


def a_completed_job(api: httpx.Client, backend: CallerBackend) -> dict:
    """One that another test sent, or its own."""
    for job in api.get("/api/v1/jobs", params={"status": "completed"}).raise_for_status().json()["jobs"]:
        return dict(job)
    return list(follow(api, submit(api, backend.photo_urls(), f"{backend.url}/hook", "fastest")))[-1]


def signatures_of_links(api: httpx.Client, job: Mapping) -> dict[str, str]:
    """Of a link to the model and the presigned one behind it, both opened, and asked for with a wrong signature too."""
    link = job["result_url"]
    presigned = httpx.get(link).headers["location"]
    assert httpx.get(presigned).status_code == 200
    signatures = {
        "link": parse_qs(urlsplit(link).query)["signature"][0],
        "presigned": parse_qs(urlsplit(presigned).query)["X-Amz-Signature"][0],
    }
    assert httpx.get(link.replace(signatures["link"], signatures["link"][::-1])).status_code >= 400
    return signatures | {"reversed": signatures["link"][::-1]}


def test_no_log_tells_a_secret(mesh: Mesh, api: httpx.Client, caller: Callable[[Path], CallerBackend], small_capture: Path) -> None:
    """Neither the mesh's own nor the caller's: links opened and refused, photos that do not come, a webhook, a wrong key."""
    backend = caller(small_capture)
    signatures = signatures_of_links(api, a_completed_job(api, backend))
    urls = [f"{url}?{QUERY}" for url in backend.photo_urls()]  # the server has no such photos
    job = list(follow(api, submit(api, urls, f"{backend.url}/hook?{QUERY}", "fastest")))[-1]
    assert job["error"]["code"] == "TOO_FEW_IMAGES"
    while backend.webhooks.get(timeout=60).payload["job_id"] != job["job_id"]:
        pass
    key = mesh.secrets["MESHWORK_API_KEY"]
    assert api.get("/api/v1/jobs", params=OF_THE_CALLER, headers={"X-API-Key": key[1:]}).status_code == 401

    logs = mesh.folder / "logs"
    assert {log.stem.rpartition("-")[0] for log in logs.glob("*.log") if log.stat().st_size} == {"gateway", "webhooks", *STAGES}
    assert job["job_id"] in (logs / "ingest-1.log").read_text()
    assert secrets_in_logs(logs, {**mesh.secrets, **signatures, **OF_THE_CALLER}) == []


def test_a_secret_in_a_log_would_be_found(tmp_path: Path) -> None:
    """Whole, cut off at its beginning, or as it stands in a URL; a signature of whatever link."""
    secrets = new_secrets()
    for name, secret in secrets.items():
        for form in (secret, secret[5:], quote(secret), quote(secret, safe="")):
            (tmp_path / "sfm-1.log").write_text(f'{{"message": "cannot connect to amqp://x:{form}@y"}}\n')
            assert secrets_in_logs(tmp_path, secrets) == [f"sfm-1.log {name}"]
    for sign in (f"signature={'0a' * 32}", f"v1,{'K' * 43}="):
        (tmp_path / "sfm-1.log").write_text(f"GET /x?{sign} failed")
        assert secrets_in_logs(tmp_path, secrets) == [f"sfm-1.log {sign}"]
