"""No secret in what is logged or answered: a gateway and a webhooks service work, fail and crash with secrets that would be recognised."""

import asyncio
import base64
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from loguru import logger
from pydantic import SecretStr

from gateway.app import Adapters, create_app
from gateway.database.engine import create_engine
from gateway.settings import GatewaySettings
from services.webhooks.consumer import WebhookConsumer
from services.webhooks.settings import WebhookSettings
from shared.broker.memory import MemoryBroker
from shared.broker.memory_server import MemoryServer
from shared.http.addresses import AddressPolicy
from shared.http.posting import GuardedPoster
from shared.runtime.logging import configure, redact
from shared.sealing import new_seal_key
from shared.storage.directory import DirectoryStore
from tests.security.conftest import key_entry, write_tenants
from tests.support.eventually import eventually
from tests.unit.gateway_http.conftest import RunningGateway
from tests.unit.http.server import LocalServer, Reply, local_server
from tests.unit.webhooks.world import hurried

API_KEY, TENANT_KEY = "apikey-RECOGNISED-1", "mwk_tenant-RECOGNISED-2"
LINK_SECRET = "linksecret-RECOGNISED-3"
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"webhook-secret-RECOGNISED-4").decode()
TENANT_WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"tenant-hook-RECOGNISED-5").decode()
SEAL_KEY = new_seal_key()
S3_SECRET, AMQP_PASSWORD, DATABASE_PASSWORD = "s3secret-RECOGNISED-6", "amqppass-RECOGNISED-7", "dbpass-RECOGNISED-8"
URL_TOKEN, AMZ = "urltoken-RECOGNISED-9", "amzsignature-RECOGNISED-10"
SECRETS = [API_KEY, TENANT_KEY, LINK_SECRET, WEBHOOK_SECRET, TENANT_WEBHOOK_SECRET, SEAL_KEY]
SECRETS += [S3_SECRET, AMQP_PASSWORD, DATABASE_PASSWORD, URL_TOKEN, AMZ]
PHOTOS = [f"http://127.0.0.1:1/{index}.jpg?X-Amz-Signature={AMZ}&token={URL_TOKEN}" for index in range(3)]


def settings(folder: Path) -> GatewaySettings:
    tenants = {"acme": {"keys": [key_entry(TENANT_KEY, "admin")], "webhook_secret": TENANT_WEBHOOK_SECRET}}
    return GatewaySettings(
        _env_file=None,
        api_key=API_KEY,
        link_secret=LINK_SECRET,
        webhook_secret=WEBHOOK_SECRET,
        seal_key=SEAL_KEY,
        s3_secret_key=S3_SECRET,
        amqp_url=f"amqp://user:{AMQP_PASSWORD}@127.0.0.1:1/x",
        database_url=f"postgresql+asyncpg://user:{DATABASE_PASSWORD}@127.0.0.1:1/x",
        allowed_private_networks="127.0.0.1/32",
        tenants_file=write_tenants(folder / "tenants.yml", tenants),
    )


class Gateway(RunningGateway):
    """Shares its broker's server with the webhooks service."""

    def __init__(self, folder: Path, server: MemoryServer) -> None:
        self.settings = settings(folder)
        self.database = create_engine(f"sqlite+aiosqlite:///{folder}/meshwork.db")
        self.store = DirectoryStore(folder / "artifacts")
        self.broker = MemoryBroker(server)
        self.app = create_app(self.settings, Adapters(self.database, self.broker, self.store, prepare_store=self.store.prepare))


@contextlib.asynccontextmanager
async def gateway_and_webhooks(folder: Path) -> AsyncIterator[Gateway]:
    server = MemoryServer(hurried())
    gateway = Gateway(folder, server)
    poster = GuardedPoster(AddressPolicy.parse(["127.0.0.1/32"]), timeout_s=2.0)
    consumer = WebhookConsumer(MemoryBroker(server), gateway.store, poster, WebhookSettings(seal_key=SecretStr(SEAL_KEY), grace_s=1.0))
    async with gateway.app.router.lifespan_context(gateway.app):
        await consumer.start()
        yield gateway
        await consumer.stop()
    await gateway.database.close()


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Any:
    """Everything that is written down, as every process of ours writes it, at the most talkative level; the function returns it."""
    configure("DEBUG", json_lines=True, service="test")
    parts: list[str] = []

    def read() -> str:
        captured = capsys.readouterr()
        parts.extend((captured.out, captured.err))
        return "".join(parts)

    yield read
    logger.remove()
    logging.basicConfig(handlers=[], force=True)


def found_in(text: str) -> list[str]:
    """Secrets in it, whole or so much of one that the rest could be guessed."""
    return [secret for secret in SECRETS if secret in text or secret[-16:] in text]


async def ask_everything(client: httpx.AsyncClient, hook: str) -> list[httpx.Response]:
    """Good, bad and odd requests, with secrets wherever a caller may put one."""
    request = {"image_urls": PHOTOS, "callback_url": hook}
    answers = [await client.post("/api/v1/reconstruct", json=request, headers={"X-API-Key": key}) for key in (API_KEY, TENANT_KEY)]
    bearer = {"Authorization": f"Bearer {TENANT_KEY}"}
    bad: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/api/v1/reconstruct", {"json": {**request, "api_key": TENANT_KEY}, "headers": bearer}),
        ("POST", "/api/v1/reconstruct", {"json": {**request, "callback_url": f"http://u:{URL_TOKEN}@h.test/"}, "headers": bearer}),
        ("POST", "/api/v1/reconstruct", {"content": f'{{"{TENANT_KEY}'.encode(), "headers": bearer}),
        ("GET", f"/api/v1/jobs?token={URL_TOKEN}&api_key={TENANT_KEY}", {"headers": bearer}),
        ("GET", f"/api/v1/jobs/x/artifacts/model.glb?expires=1&signature={AMZ}", {}),
        ("GET", "/api/v1/jobs", {"headers": {"X-API-Key": TENANT_KEY[:-1]}}),
        ("GET", "/api/v1/jobs", {"headers": {"Authorization": f"Basic {TENANT_KEY}"}}),
        ("GET", "/readyz", {"headers": bearer}),
        ("GET", "/metrics", {"headers": bearer}),
    ]
    return answers + [await client.request(method, path, **more) for method, path, more in bad]


async def test_no_secret_is_logged_or_answered(tmp_path: Path, logged: Any) -> None:
    """Jobs, refusals, links, sockets, webhooks that fail and succeed, retried with the body and its signature."""
    replies = [Reply(500, body=API_KEY.encode()), Reply(302, headers={"location": f"http://x/?token={URL_TOKEN}"}), Reply(200)]
    async with (
        gateway_and_webhooks(tmp_path) as gateway,
        local_server(lambda _: replies.pop(0) if replies else Reply(200)) as hooks,
        gateway.client() as client,
    ):
        answers = await ask_everything(client, hooks.url(f"/hook?token={URL_TOKEN}"))
        mine = answers[1].json()["job_id"]
        await gateway.finish(mine, {"model.glb": b"glTF"})
        await called(hooks, 3)
        paths = [f"/api/v1/jobs/{mine}/artifacts", f"/api/v1/jobs/{mine}/webhooks", f"/api/v1/jobs/{mine}/events", "/api/v1/jobs"]
        shown = [await client.get(path, headers={"X-API-Key": TENANT_KEY}) for path in paths]
        link = shown[0].json()["artifacts"][0]["url"].partition("8000")[2]
        signature = link.partition("signature=")[2]
        assert (await client.get(link)).status_code == 200
    text = logged()
    assert "/api/v1/reconstruct" in text and len(text.splitlines()) > 15
    assert found_in(text) == [] and signature not in text and hooks.requests[0].headers["webhook-signature"] not in text
    for answer in (*answers, *shown):
        allowed = {URL_TOKEN, AMZ}  # what a caller sent is echoed to that caller
        assert set(found_in(answer.text + str(answer.headers))) <= allowed, answer.text[:300]


async def called(hooks: LocalServer, times: int) -> None:
    await eventually(lambda: len(hooks.requests) >= times, 20)


async def test_no_traceback_tells_a_secret(tmp_path: Path, logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that nobody expected, with secrets in their messages as libraries put them there: settings, URLs, headers, queries."""
    async with gateway_and_webhooks(tmp_path) as gateway, gateway.client(**{"X-API-Key": TENANT_KEY}) as client:
        values = gateway.settings
        amqp, database = values.amqp_url.get_secret_value(), values.database_url.get_secret_value()
        messages = [
            f"cannot connect to {amqp}",
            f"could not translate host name in {database!r}",
            f"{values!r}",
            f"request headers: {dict(client.headers)}",
            f"headers=[(b'authorization', b'Bearer {TENANT_KEY}')] {{'X-API-Key': '{API_KEY}'}} bad key {TENANT_KEY}",
            f"GET http://127.0.0.1/photo.jpg?X-Amz-Signature={AMZ}&token={URL_TOKEN} failed",
            f"secret_key='{S3_SECRET}' link_secret={LINK_SECRET} seal_key: {SEAL_KEY} MESHWORK_API_KEY={API_KEY}",
            f"signing with {WEBHOOK_SECRET}, {TENANT_WEBHOOK_SECRET}",
        ]
        answers = []
        for message in messages:

            async def fail(*_: object, message: str = message) -> None:
                try:
                    raise OSError(message)
                except OSError as error:
                    raise RuntimeError(f"because {message}") from error

            monkeypatch.setattr(gateway.app.state.parts.jobs, "get_job", fail)
            answers.append(await client.get("/api/v1/jobs/00000000-0000-0000-0000-000000000000"))
            with contextlib.suppress(RuntimeError):
                task = asyncio.ensure_future(fail())
                await task
            logging.getLogger("aiormq").error("lost %s", message, exc_info=task.exception())
    text = logged()
    assert text.count("Traceback") >= len(messages)
    assert found_in(text) == []
    for answer in answers:
        assert answer.status_code == 500 and found_in(answer.text) == [] and "because" not in answer.text


def test_settings_print_no_secret(tmp_path: Path) -> None:
    """Neither as text nor as the error of a value beside them."""
    values = settings(tmp_path)
    assert found_in(repr(values) + str(values) + values.model_dump_json()) == []


@pytest.mark.parametrize("text", [f"key {TENANT_KEY}", f"'{TENANT_KEY}'", f"mwk {TENANT_KEY},", f"?k={TENANT_KEY}&x"])
def test_a_tenants_key_is_known_by_its_look(text: str) -> None:
    """Wherever it turns up, without a word before it that says what it is."""
    assert TENANT_KEY not in redact(text)
