"""Uploads: no name leads elsewhere, none overwrites another's file, and no number of them fills the store."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from shared.storage import keys
from tests.unit.gateway_http.conftest import RunningGateway

TRICKS = [
    "../../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "/etc/passwd",
    "C:\\boot.ini",
    "..",
    ".",
    "",
    "\u202egpj.exe",
    "\u200bhidden.jpg",
    "a\u0000b.jpg",
    "a\rb\n.jpg",
    "a" * 300 + ".jpg",
    "ü" * 300,
    "../request.json",
    "manifest.json",
    "../deleted",
    "%2e%2e%2fescaped.jpg",
    "\x1b[31mred.jpg",
    "//host/share.jpg",
    "same.jpg",
    "same.jpg",
]


def form(names: list[str], boundary: bytes = b"edge") -> bytes:
    """A multipart body as an attacker writes it: no library cleans the names."""
    parts = []
    for index, name in enumerate(names):
        quoted = name.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "%0D").replace("\n", "%0A").encode()
        head = b'--%s\r\nContent-Disposition: form-data; name="images"; filename="%s"\r\n\r\n' % (boundary, quoted)
        parts.append(head + b"photo %d\r\n" % index)
    return b"".join(parts) + b"--%s--\r\n" % boundary


FORM = {"Content-Type": "multipart/form-data; boundary=edge"}


async def keys_of(gateway: RunningGateway) -> list[str]:
    """Everything that lies in the store."""
    return list(await gateway.store.list(keys.JOBS))


@pytest.mark.parametrize("first", range(0, len(TRICKS), 3))
async def test_no_name_leads_out_of_its_job(gateway: RunningGateway, acme: httpx.AsyncClient, first: int) -> None:
    """Each photo lies under its own number in its own job, with its own bytes, under a name that any file system takes."""
    names = TRICKS[first : first + 3]
    answer = await acme.post("/api/v1/jobs", content=form(names), headers=FORM)
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["job_id"]
    stored = [key for key in await keys_of(gateway) if "/images/" in key]
    assert [key.startswith(f"{keys.job_prefix(job_id)}images/{index:03d}_") for index, key in enumerate(stored)] == [True] * 3
    assert [await gateway.store.get(key) for key in stored] == [b"photo %d" % index for index in range(3)]
    for key in stored:
        name = key.rpartition("/")[2]
        assert key.count("/") == 3 and name.isprintable() and len(name.encode()) <= 255 and name[4:] not in {"", ".", ".."}
    shown = [image["name"] for image in (await acme.get(f"/api/v1/jobs/{job_id}")).json()["images"]]
    assert len(set(shown)) == 3 and all("/" not in name and "\\" not in name and name.isprintable() for name in shown)


async def test_uploads_overwrite_nothing(gateway: RunningGateway, acme: httpx.AsyncClient, other: httpx.AsyncClient) -> None:
    """The same names from two tenants at once: every photo of every job is there, with its own bytes."""
    calls = [client.post("/api/v1/jobs", content=form(["same.jpg"] * 3), headers=FORM) for client in (acme, other) * 3]
    jobs = [answer.json()["job_id"] for answer in await asyncio.gather(*calls)]
    assert len(set(jobs)) == 6
    stored = [key for key in await keys_of(gateway) if "/images/" in key]
    assert sorted(stored) == sorted(keys.image(job_id, index, "same.jpg") for job_id in jobs for index in range(3))


async def test_a_hundred_thousand_tiny_photos_are_refused_at_the_limit(gateway: RunningGateway, acme: httpx.AsyncClient) -> None:
    """The door stops where the limit is: nothing after it is stored, and what was is purged with its job."""
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for sent in range(100_000):
            yield b'--edge\r\nContent-Disposition: form-data; name="images"; filename="%d.jpg"\r\n\r\n\r\n' % sent
        yield b"--edge--\r\n"

    stored: set[str] = set()
    upload = gateway.store.upload_stream

    async def noted(chunks: AsyncIterator[bytes], key: str, content_type: str) -> object:
        stored.add(key)
        return await upload(chunks, key, content_type)

    gateway.store.upload_stream = noted  # type: ignore[method-assign,assignment]
    answer = await acme.post("/api/v1/jobs", content=body(), headers=FORM)
    assert answer.status_code in {413, 422}
    assert answer.json()["code"] in {"TOO_MANY_IMAGES", "PAYLOAD_TOO_LARGE"}
    assert len(stored) <= gateway.settings.max_images
    assert (await acme.get("/api/v1/jobs")).json()["jobs"] == []
