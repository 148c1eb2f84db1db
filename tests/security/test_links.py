"""Signed links: each opens one file of one job until one moment, and nothing makes it open more."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
import pytest

from gateway.links import Links
from shared.storage.minio import MinioStore
from tests.security.conftest import new_job
from tests.support.eventually import eventually
from tests.support.servers import S3Server
from tests.unit.gateway_http.conftest import RunningGateway

FILES = {"model.glb": b"glTF", "report.json": b"{}"}
Changes = dict[str, str | None]


async def links_of(gateway: RunningGateway, client: httpx.AsyncClient) -> dict[str, str]:
    """The links to a finished job's artifacts, by name, without scheme and host."""
    job_id = await new_job(client)
    await gateway.finish(job_id, FILES)
    artifacts = (await client.get(f"/api/v1/jobs/{job_id}/artifacts")).json()["artifacts"]
    return {artifact["name"]: artifact["url"].partition("8000")[2] for artifact in artifacts}


def changed(url: str, path: str | None = None, **query: str | None) -> str:
    """The URL with another path, and with values of its query replaced, or left out where None."""
    parts = urlsplit(url)
    values = {name: value for name, value in (dict(parse_qsl(parts.query)) | query).items() if value is not None}
    return urlunsplit(parts._replace(path=path or parts.path, query=urlencode(values)))


async def test_a_link_opens_its_file_alone(gateway: RunningGateway, acme: httpx.AsyncClient) -> None:
    """Another file, another job, a later end, a shorter or longer signature: 401, with no word of what there is."""
    mine, theirs = await links_of(gateway, acme), await links_of(gateway, acme)
    link, model = mine["model.glb"], urlsplit(mine["model.glb"])
    values = dict(parse_qsl(model.query))
    expires, signature = values["expires"], values["signature"]
    forged = [
        changed(link, path=urlsplit(mine["report.json"]).path),
        changed(link, path=urlsplit(theirs["model.glb"]).path),
        changed(link, path=model.path.replace("model.glb", "model%2eglb/../report.json")),
        changed(link, path=model.path.upper()),
        changed(link, expires=str(int(expires) + 1)),
        changed(link, expires=str(int(expires) - 1)),
        changed(link, expires="9" * 12),
        changed(link, expires=f"0{expires}", signature=signature[:-1]),
        changed(link, expires="-1"),
        changed(link, expires="１２３"),
        changed(link, expires=None),
        changed(link, expires=f"{expires}.0"),
        changed(link, signature=None),
        changed(link, signature=""),
        changed(link, signature=signature[:-1]),
        changed(link, signature=signature + "0"),
        changed(link, signature=signature.upper()),
        changed(link, signature="ä" * 64),
        changed(link, signature="0" * 64),
        changed(mine["report.json"], path=model.path),
    ]
    async with gateway.client() as stranger:
        assert (await stranger.get(link)).content == FILES["model.glb"]
        for url in forged:
            answer = await stranger.get(url)
            assert answer.status_code in {401, 404}, url
            assert FILES["model.glb"] not in answer.content
        assert (await stranger.post(link)).status_code == 401
        for rest in ("", "/events", "/webhooks", "/artifacts"):  # nothing else of the job
            url = changed(link, path=model.path.removesuffix("/artifacts/model.glb") + rest)
            assert (await stranger.get(url)).status_code == 401
            assert (await stranger.delete(url)).status_code == 401


async def test_doubled_parameters_open_nothing_new(gateway: RunningGateway, acme: httpx.AsyncClient) -> None:
    """A second value beside the signed one is either ignored or refused."""
    link = (await links_of(gateway, acme))["model.glb"]
    async with gateway.client() as stranger:
        for more in ("&expires=999999999999", "&signature=0", "&name=report.json", "&job_id=x"):
            answer = await stranger.get(link + more)
            assert answer.status_code == 401 or answer.content == FILES["model.glb"]


async def test_a_link_ends(gateway: RunningGateway, acme: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the job's retention, by the database's clock; at the very second it still opens."""
    link = (await links_of(gateway, acme))["model.glb"]
    jobs = gateway.app.state.parts.jobs
    end = (await jobs.now()).replace(microsecond=0) + gateway.settings.retention
    async with gateway.client() as stranger:
        for later, status in ((timedelta(seconds=-5), 200), (timedelta(seconds=5), 401), (timedelta(days=9999), 401)):

            async def then(later: timedelta = later) -> object:
                return end + later

            monkeypatch.setattr(jobs, "now", then)
            assert (await stranger.get(link)).status_code == status


async def test_a_link_ends_with_its_job(gateway: RunningGateway, acme: httpx.AsyncClient) -> None:
    """A deleted job's link leads nowhere."""
    link = (await links_of(gateway, acme))["model.glb"]
    job_id = urlsplit(link).path.split("/")[4]
    assert (await acme.delete(f"/api/v1/jobs/{job_id}")).status_code == 204
    async with gateway.client() as stranger:
        assert (await stranger.get(link)).status_code == 404


def test_signatures_of_different_files_never_agree() -> None:
    """No choice of id and name spells another pair: ids hold no line break, and the parts are told apart by one."""
    links, end = Links("http://x", ("secret",), timedelta(days=1)), datetime(2030, 1, 1, tzinfo=UTC)
    pairs = [("a", "b/c"), ("a/b", "c"), ("ab", "c"), ("a", "bc"), ("", "abc")]
    signatures = {dict(parse_qsl(urlsplit(links.sign_link(job, name, end)).query))["signature"] for job, name in pairs}
    assert len(signatures) == len(pairs)


async def test_a_presigned_link_of_the_store_cannot_be_widened(s3_server: S3Server, s3_bucket: str) -> None:
    """MinIO refuses another object, another method, a longer life, another bucket and another file name; then the link ends."""
    store = MinioStore(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, s3_bucket)
    await store.prepare()
    await store.put("jobs/mine/model.glb", b"mine")
    await store.put("jobs/theirs/model.glb", b"theirs")
    link, short = [
        await store.presign("jobs/mine/model.glb", timedelta(seconds=seconds), "model.glb", "model/gltf-binary") for seconds in (600, 1)
    ]
    assert link is not None and short is not None
    path = urlsplit(link).path
    forged: list[tuple[str, str]] = [
        ("GET", changed(link, path=path.replace("mine", "theirs"))),
        ("GET", changed(link, path=path.replace("mine", "mine/../theirs"))),
        ("GET", changed(link, path=f"/{s3_bucket}/")),
        ("GET", changed(link, path=f"/{s3_bucket}/", **{"list-type": "2"})),
        ("GET", changed(link, **{"X-Amz-Expires": "604800"})),
        ("GET", changed(link, **{"X-Amz-Date": "20991231T000000Z"})),
        ("GET", changed(link, **{"response-content-type": "text/html"})),
        ("GET", changed(link, **{"response-content-disposition": "inline"})),
        ("GET", changed(link, **{"versionId": "null"})),
        ("GET", changed(link, **{"X-Amz-Signature": None})),
        ("GET", link.partition("?")[0]),
        ("PUT", link),
        ("DELETE", link),
        ("POST", link),
    ]
    async with httpx.AsyncClient() as stranger:
        assert (await stranger.get(link)).content == b"mine"
        for method, url in forged:
            answer = await stranger.request(method, url, content=b"overwritten" if method == "PUT" else None)
            assert answer.status_code in {400, 403, 405, 411, 412}, (method, url)
            assert b"theirs" not in answer.content or b"<Error>" in answer.content
        assert await store.get("jobs/mine/model.glb") == b"mine"

        async def refused() -> bool:
            return (await stranger.get(short)).status_code == 403

        await eventually(refused, 30, interval_s=0.25)
    await store.close()
