"""Photos in archives and videos, through the gateway of the embedded mode, over HTTP alone."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from deploy.demo.client import fetch, follow
from deploy.demo.receiver import CallerBackend
from deploy.embedded.process import EmbeddedProcess
from deploy.secrets import load_or_make
from tests.security.hostile_files import photo, zipped
from tests.support.videos import video

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, dict[str, str]]]:
    """The API of a service in one process, and its secrets."""
    folder = tmp_path_factory.mktemp("embedded")
    secrets = load_or_make(folder / "secrets.env")
    settings = {**secrets, "MESHWORK_ALLOWED_PRIVATE_NETWORKS": "127.0.0.1/32"}
    with (
        EmbeddedProcess(folder, settings) as process,
        httpx.Client(base_url=process.url, headers={"X-API-Key": secrets["MESHWORK_API_KEY"]}, timeout=30) as api,
    ):
        yield api, secrets


def test_a_link_to_an_archive_is_a_job_of_its_photos(
    embedded: tuple[httpx.Client, dict[str, str]], small_capture: Path, tmp_path: Path
) -> None:
    """One link: every photo is placed, and cameras, job and report name the photos, not the archive."""
    api, secrets = embedded
    photos = {path.name: path.read_bytes() for path in sorted(small_capture.iterdir())}
    (tmp_path / "set.zip").write_bytes(zipped([(f"animal/{name}", data) for name, data in photos.items()]))
    with closing(CallerBackend(tmp_path, secrets["MESHWORK_WEBHOOK_SECRET"])) as caller:
        body = {"image_urls": [f"{caller.url}/photos/set.zip"], "callback_url": f"{caller.url}/hook"}
        wanted = {"pipeline": "pointcloud", "preset": "fastest", "outputs": ["cameras.json"]}
        job_id = api.post("/api/v1/reconstruct", json=body | wanted).raise_for_status().json()["job_id"]
        job = list(follow(api, job_id))[-1]
        webhook = caller.webhooks.get(timeout=60)
    assert job["status"] == "completed", job["error"]
    archive, *held = job["images"]
    assert (archive["name"], archive["url"], archive["status"], archive["reason"]) == ("set.zip", body["image_urls"][0], "expanded", None)
    assert [image["name"] for image in held] == list(photos)
    assert {(image["status"], image["source"], image["url"]) for image in held} == {("registered", "set.zip", None)}
    assert list(json.loads(fetch(job, tmp_path / "files")["cameras.json"].read_text())["images"]) == list(photos)
    assert webhook.verified and webhook.payload["report"]["images"]["submitted"] == len(photos)


def test_an_archive_of_two_photos_fails_as_two_photos_do(embedded: tuple[httpx.Client, dict[str, str]]) -> None:
    """Only later: what an archive holds is known once it is open. What became of each file in it is told all the same."""
    api, _ = embedded
    archive = zipped([("a.jpg", photo(1)), ("b.jpg", photo(2)), ("notes.txt", b"two photos"), ("__MACOSX/._a.jpg", b"x")])
    answer = api.post("/api/v1/jobs", files=[("images", ("set.zip", archive, "application/zip"))])
    job = list(follow(api, answer.raise_for_status().json()["job_id"]))[-1]
    assert (job["status"], job["error"]["code"], job["error"]["stage"]) == ("failed", "TOO_FEW_IMAGES", "ingest")
    assert [(image["name"], image["status"], image["reason"]) for image in job["images"]] == [
        ("set.zip", "expanded", None),
        ("a.jpg", "accepted", None),
        ("b.jpg", "accepted", None),
        ("notes.txt", "dropped", "NOT_AN_IMAGE"),
    ]


def test_a_video_is_read_in_the_worker_s_child(embedded: tuple[httpx.Client, dict[str, str]], tmp_path: Path) -> None:
    """Of two frames, so that the job ends there: both become photos of it."""
    api, _ = embedded
    answer = api.post("/api/v1/jobs", files=[("images", ("walk.mp4", video(tmp_path / "a.mp4", (0, 40)), "video/mp4"))])
    job = list(follow(api, answer.raise_for_status().json()["job_id"]))[-1]
    assert (job["status"], job["error"]["code"]) == ("failed", "TOO_FEW_IMAGES")
    told = [(image["name"], image["status"], image.get("source")) for image in job["images"]]
    frames = [(f"walk_{i:04d}.jpg", "accepted", "walk.mp4") for i in (1, 2)]
    assert told == [("walk.mp4", "expanded", None), *frames]
