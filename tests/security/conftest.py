"""A gateway of two tenants: `acme` with a key for each scope, and `other`; beside them the first tenant of MESHWORK_API_KEY."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import yaml

from gateway.tenants import digest_of
from tests.unit.gateway_http.conftest import URLS, RunningGateway, running_gateway

ACME = {scope: f"mwk_acme-{scope}-{'0' * 24}" for scope in ("read", "submit", "admin")}
OTHER = f"mwk_other-{'1' * 30}"
REQUEST = {"image_urls": URLS, "callback_url": "https://hooks.example.org/x", "metadata": {"tenant": "acme"}}


def key_entry(key: str, *scopes: str, **more: object) -> dict[str, object]:
    """As it stands in the file."""
    return {"id": key[4:16], "sha256": digest_of(key).hex(), "scopes": list(scopes), **more}


def write_tenants(path: Path, tenants: dict[str, object]) -> Path:
    """The file of further tenants, replaced as an operator's tools do."""
    new = path.with_suffix(".new")
    new.write_text(yaml.safe_dump(tenants))
    return new.replace(path)


def two_tenants(folder: Path, **acme: object) -> Path:
    """The file with both."""
    keys = [key_entry(key, scope) for scope, key in ACME.items()]
    return write_tenants(folder / "tenants.yml", {"acme": {"keys": keys, **acme}, "other": {"keys": [key_entry(OTHER, "admin")]}})


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, tenants_file=two_tenants(tmp_path)) as running:
        yield running


@pytest.fixture
async def acme(gateway: RunningGateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client(**{"X-API-Key": ACME["admin"]}) as client:
        yield client


@pytest.fixture
async def other(gateway: RunningGateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client(**{"X-API-Key": OTHER}) as client:
        yield client


async def new_job(client: httpx.AsyncClient, **headers: str) -> str:
    """A job of whoever asks."""
    answer = await client.post("/api/v1/reconstruct", json=REQUEST, headers=headers)
    assert answer.status_code == 202, answer.text
    return answer.json()["job_id"]
