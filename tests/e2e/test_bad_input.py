"""What callers get wrong, and attackers try, on the mesh: each with its code, no 5xx, nothing left running."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deploy.demo.client import follow
from deploy.demo.receiver import CallerBackend
from deploy.native.mesh import VHOST, Mesh
from tests.support.eventually import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@contextmanager
def silent_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/never.jpg"
        for connection in held:
            connection.close()


def post(api: httpx.Client, **body: object) -> httpx.Response:
    return api.post("/api/v1/reconstruct", json=body)


def test_each_mistake_at_the_door_has_its_code(mesh: Mesh, api: httpx.Client) -> None:
    """Refused before anything is stored, whatever the size."""
    urls = [f"http://127.0.0.1:9/{i}.jpg" for i in range(3)]
    stranger = httpx.post(f"{mesh.api_url}/api/v1/reconstruct", json={"image_urls": urls}, headers={"X-API-Key": "wrong"})
    answers = {
        "zero images": post(api, image_urls=[]),
        "one image": post(api, image_urls=urls[:1]),
        "metadata address": post(api, image_urls=urls, callback_url="http://169.254.169.254/latest"),
        "100 MB": api.post("/api/v1/reconstruct", content=b"x" * 100_000_000, headers={"content-type": "application/json"}),
        "wrong key": stranger,
    }
    assert {name: (answer.status_code, answer.json()["code"]) for name, answer in answers.items()} == {
        "zero images": (422, "TOO_FEW_IMAGES"),
        "one image": (422, "TOO_FEW_IMAGES"),
        "metadata address": (422, "UNSAFE_URL"),
        "100 MB": (413, "PAYLOAD_TOO_LARGE"),
        "wrong key": (401, "UNAUTHENTICATED"),
    }


def test_photos_that_never_come_fail_the_job_and_leave_nothing_running(
    mesh: Mesh, api: httpx.Client, caller: Callable[[Path], CallerBackend], tmp_path: Path
) -> None:
    """A server that is silent, a page that is missing, an address that is refused: each photo has its reason, and the queues are empty."""
    (tmp_path / "text.jpg").write_text("no image")
    backend = caller(tmp_path)
    with silent_server() as silent:
        urls = [silent, f"{backend.url}/photos/missing.jpg", f"{backend.url}/photos/text.jpg", "http://127.0.0.2:9/a.jpg"]
        refused = post(api, image_urls=urls)
        assert (refused.status_code, refused.json()["code"]) == (422, "UNSAFE_URL")
        job_id = post(api, image_urls=urls[:3], callback_url=f"{backend.url}/hook").raise_for_status().json()["job_id"]
        job = list(follow(api, job_id))[-1]
    assert (job["status"], job["error"]["code"], job["error"]["stage"]) == ("failed", "TOO_FEW_IMAGES", "ingest")
    assert [image["reason"] for image in job["images"]] == ["TIMED_OUT", "UNREACHABLE", "NOT_AN_IMAGE"]
    webhook = backend.webhooks.get(timeout=60)
    assert webhook.verified and webhook.payload["error"]["code"] == "TOO_FEW_IMAGES"
    wait_until(lambda: messages_in(mesh, "stage.") == 0, timeout_s=30)


def messages_in(mesh: Mesh, prefix: str) -> int:
    """Messages, ready or unacknowledged, in the queues with this prefix."""
    queues = mesh.rabbitmq.management.call("GET", f"queues/{VHOST}")
    return sum(queue.get("messages", 0) for queue in queues if queue["name"].startswith(prefix))
