"""What ingest lets through, and what it says about the rest."""

import io
import json
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipelines.definition import load_pipelines
from services.ingest.params import IngestParams
from services.ingest.settings import IngestSettings
from services.ingest.stage import IngestStage
from shared.contracts.request import ImageSource, JobRequest
from shared.errors import CODES, PermanentError
from shared.runtime.workspace import Workspace
from tests.security.hostile_files import EXIF_POINTER, GPS_POINTER, INTEROP_POINTER, exif_of
from tests.support.tls import FAULTS, Fault, breaking_server, make_certificate

Pages = dict[str, tuple[int, dict[str, str], bytes]]


def sharp_pixels(seed: int, size: tuple[int, int] = (640, 480)) -> np.ndarray:
    random, pixels = np.random.default_rng(seed), np.full((size[1], size[0], 3), 128, np.uint8)
    for _ in range(200):
        x, y, width, height = random.integers((0, 0, 10, 10), (*size, 80, 80))
        pixels[y : y + height, x : x + width] = random.integers(0, 256, 3)
    return pixels


def encoded(pixels: np.ndarray, kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def png_bomb(side: int) -> bytes:
    """A small PNG whose header promises side × side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Pages], str]]:
    """Serves pages on an address that ingest may reach."""
    monkeypatch.setenv("MESHWORK_ALLOWED_PRIVATE_NETWORKS", "127.0.0.1/32")
    servers: list[ThreadingHTTPServer] = []

    def start(pages: Pages) -> str:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                status, headers, body = pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def workspace_of(folder: Path, sources: list[ImageSource]) -> Workspace:
    request = JobRequest(job_id="j", created_at=datetime.now(UTC), pipeline="p", preset="b", images=tuple(sources), outputs=())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "request.json").write_bytes(request.to_bytes())
    return Workspace(folder)


def uploaded(folder: Path, files: dict[str, bytes], **params: object) -> tuple[Workspace, dict[str, str | None]]:
    """Runs ingest over uploads; every photo's reason by name."""
    workspace = workspace_of(folder, [ImageSource(name=name, key=f"k/{name}") for name in files])
    workspace.inputs("images").mkdir(parents=True)
    for index, (name, data) in enumerate(files.items()):
        (workspace.inputs("images") / f"{index:03d}_{name}").write_bytes(data)
    try:
        report = IngestStage().run(workspace, IngestParams(**params))
    except PermanentError as error:
        assert error.code == "TOO_FEW_IMAGES"
        report = error.report
    return workspace, {verdict.name: verdict.reason for verdict in report.images}


def photos_of(workspace: Workspace) -> list[dict]:
    return json.loads((workspace.outputs / "photos.json").read_text())["photos"]


def test_each_format_becomes_an_upright_rgb_photo(tmp_path: Path) -> None:
    """JPEG, PNG, WebP, TIFF and HEIC are read, whatever their depth and colour model."""
    grey16 = (np.asarray(Image.fromarray(sharp_pixels(6)).convert("L")).astype(np.uint16)) * 257
    transparent = np.dstack([sharp_pixels(7), np.full((480, 640), 255, np.uint8)])
    files = {
        "a.jpg": encoded(sharp_pixels(1)),
        "b.png": encoded(sharp_pixels(2), "PNG"),
        "c.webp": encoded(sharp_pixels(3), "WEBP", quality=95),
        "d.tif": encoded(sharp_pixels(4), "TIFF"),
        "e.heic": encoded(sharp_pixels(5), "HEIF", quality=95),
        "grey16.png": encoded(grey16, "PNG"),
        "alpha.png": encoded(transparent, "PNG"),
    }
    workspace, reasons = uploaded(tmp_path, files)
    assert set(reasons.values()) == {None}
    for photo in photos_of(workspace):
        image = Image.open(workspace.outputs / photo["file"])
        assert (image.mode, image.size, image.format) == ("RGB", (640, 480), "PNG" if photo["file"].endswith("png") else "JPEG")
        assert np.asarray(image).std() > 30


def test_a_turned_photo_is_stood_upright(tmp_path: Path) -> None:
    """EXIF orientation 6 becomes pixels, and the size follows."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = {f"{seed}.jpg": encoded(sharp_pixels(seed), exif=exif, quality=95) for seed in range(3)}
    workspace, _ = uploaded(tmp_path, turned)
    photo = photos_of(workspace)[0]
    assert (photo["width"], photo["height"]) == (480, 640)
    image = Image.open(workspace.outputs / photo["file"])
    assert image.getexif().get(0x0112, 1) == 1
    expected = np.rot90(sharp_pixels(0), -1).astype(int)
    assert np.abs(np.asarray(image).astype(int) - expected).mean() < 8  # JPEG twice


def test_an_upright_jpeg_is_not_encoded_again(tmp_path: Path) -> None:
    """A photo that already is what later steps read keeps its bytes."""
    files = {f"{seed}.jpg": encoded(sharp_pixels(seed)) for seed in range(3)}
    workspace, _ = uploaded(tmp_path, files)
    assert [(workspace.outputs / photo["file"]).read_bytes() for photo in photos_of(workspace)] == list(files.values())


def test_every_bad_photo_has_its_own_reason(tmp_path: Path) -> None:
    """One bad photo among many costs that photo only."""
    good = encoded(sharp_pixels(1))
    files = {
        "good.jpg": good,
        "other.jpg": encoded(sharp_pixels(2)),
        "third.jpg": encoded(sharp_pixels(3)),
        "text.jpg": b"just text\n" * 50,
        "empty.jpg": b"",
        "cut.jpg": good[: len(good) // 3],
        "bomb.png": png_bomb(40_000),
        "copy.jpg": good,
        "same_pixels.png": encoded(np.asarray(Image.open(io.BytesIO(good))), "PNG"),
        "blur.jpg": encoded(np.asarray(Image.fromarray(sharp_pixels(4)).resize((6, 4)).resize((640, 480), Image.Resampling.BICUBIC))),
    }
    _, reasons = uploaded(tmp_path, files)
    assert reasons == {
        "good.jpg": None,
        "other.jpg": None,
        "third.jpg": None,
        "text.jpg": "NOT_AN_IMAGE",
        "empty.jpg": "NOT_AN_IMAGE",
        "cut.jpg": "CORRUPT_IMAGE",
        "bomb.png": "IMAGE_TOO_LARGE",
        "copy.jpg": "DUPLICATE",
        "same_pixels.png": "DUPLICATE",
        "blur.jpg": "TOO_BLURRED",
    }


def test_black_and_white_photos_are_not_called_blurred(tmp_path: Path) -> None:
    """Also the second black one: to send it once is no help. A second good one is a copy still."""
    good = {f"{seed}.jpg": encoded(sharp_pixels(seed)) for seed in range(5)}
    black, white = encoded(np.zeros((480, 640, 3), np.uint8)), encoded(np.full((480, 640, 3), 255, np.uint8))
    _, reasons = uploaded(tmp_path, good | {"black.jpg": black, "lid on.jpg": black, "white.jpg": white, "copy.jpg": good["0.jpg"]})
    expected = {"black.jpg": "TOO_DARK", "lid on.jpg": "TOO_DARK", "white.jpg": "TOO_BRIGHT", "copy.jpg": "DUPLICATE"}
    assert reasons == dict.fromkeys(good) | expected
    assert "more light" in CODES["TOO_DARK"].hint


def test_dropped_photos_leave_no_file(tmp_path: Path) -> None:
    """Only accepted photos are handed on."""
    files = {"a.jpg": encoded(sharp_pixels(1)), "b.jpg": encoded(sharp_pixels(2)), "c.jpg": encoded(sharp_pixels(3))}
    workspace, _ = uploaded(tmp_path, files | {"copy.jpg": files["a.jpg"]})
    assert sorted(path.name for path in (workspace.outputs / "photos").iterdir()) == ["0000.jpg", "0001.jpg", "0002.jpg"]


def test_downloads_are_guarded_and_their_failures_told_apart(tmp_path: Path, serve: Callable[[Pages], str]) -> None:
    """Missing pages, redirects to private addresses and good photos each end as they should."""
    url = serve(
        {
            **{f"/{seed}.jpg": (200, {}, encoded(sharp_pixels(seed))) for seed in range(3)},
            "/moved.jpg": (302, {"location": "/moved-to.jpg"}, b""),
            "/moved-to.jpg": (200, {}, encoded(sharp_pixels(9))),
            "/private.jpg": (302, {"location": "http://127.0.0.2:1/secret.jpg"}, b""),
        }
    )
    names = ["0.jpg", "1.jpg", "2.jpg", "moved.jpg", "private.jpg", "missing.jpg"]
    workspace = workspace_of(tmp_path, [ImageSource(name=name, url=f"{url}/{name}") for name in names])
    report = IngestStage().run(workspace, IngestParams())
    assert {verdict.name: verdict.reason for verdict in report.images} == {
        **dict.fromkeys(names[:4]),
        "private.jpg": "UNSAFE_URL",
        "missing.jpg": "UNREACHABLE",
    }
    assert [warning.code for warning in report.warnings] == ["FEW_IMAGES"]


def test_too_few_photos_fail_with_every_reason(tmp_path: Path) -> None:
    """The error's report still accounts for each photo."""
    _, reasons = uploaded(tmp_path, {"a.jpg": encoded(sharp_pixels(1)), "b.jpg": b"no", "c.jpg": b"no"})
    assert reasons == {"a.jpg": None, "b.jpg": "NOT_AN_IMAGE", "c.jpg": "NOT_AN_IMAGE"}
    with pytest.raises(PermanentError, match=r"1 of 3 photos.*NOT_AN_IMAGE: b.jpg, c.jpg") as refused:
        IngestStage().run(Workspace(tmp_path), IngestParams())
    assert "Send JPEG, PNG" in refused.value.hint


def test_figures_of_every_photo_that_opened_are_told(tmp_path: Path) -> None:
    """In photos.json of those accepted, in the verdicts of those dropped for it too."""
    blurred = np.asarray(Image.fromarray(sharp_pixels(4)).resize((6, 4)).resize((640, 480), Image.Resampling.BICUBIC))
    files = {"a.jpg": encoded(sharp_pixels(1)), "b.jpg": encoded(sharp_pixels(2)), "c.jpg": encoded(sharp_pixels(3))}
    names = [*files, "blur.jpg"]
    workspace = workspace_of(tmp_path, [ImageSource(name=name, key=f"k/{name}") for name in names])
    workspace.inputs("images").mkdir(parents=True)
    for index, data in enumerate((*files.values(), encoded(blurred))):
        (workspace.inputs("images") / f"{index:03d}_{names[index]}").write_bytes(data)
    verdicts = {verdict.name: verdict for verdict in IngestStage().run(workspace, IngestParams()).images}
    assert verdicts["blur.jpg"].reason == "TOO_BLURRED"
    assert verdicts["blur.jpg"].figures["sharpness"] < 1 < verdicts["a.jpg"].figures["sharpness"]
    assert photos_of(workspace)[0]["quality"] == verdicts["a.jpg"].figures


def test_focal_length_comes_from_exif_in_pixels_of_the_working_image(tmp_path: Path) -> None:
    """A 35 mm equivalent of 43.27 mm is one diagonal; reducing the photo reduces it."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "Model"
    exif.get_ifd(0x8769)[0xA405] = 36
    files = {f"{seed}.jpg": encoded(sharp_pixels(seed, (1600, 1200)), exif=exif) for seed in range(3)}
    workspace, _ = uploaded(tmp_path, files, max_image_size=800)
    photo = photos_of(workspace)[0]
    assert (photo["width"], photo["height"]) == (800, 600)
    assert photo["focal_px"] == pytest.approx(1000 * 36 / 43.27)
    assert len({photo["camera_key"] for photo in photos_of(workspace)}) == 1


def test_exif_that_cannot_be_read_costs_what_it_would_have_said(tmp_path: Path) -> None:
    """A turned photo of a known camera is turned and known, whatever its pointers lead to."""
    good = (0x0112, 3, 6)
    inner = ((0xA405, 3, 36), (INTEROP_POINTER, 9, -5))
    files = {
        "pointer.jpg": exif_of(good, (EXIF_POINTER, 9, -5)),
        "inner.jpg": exif_of(good, (GPS_POINTER, 9, -5), inner=inner),
        "turn.jpg": exif_of((0x0112, 7, 6), inner=inner),
    }
    jpegs = {name: encoded(sharp_pixels(seed)) for seed, name in enumerate(files)}
    segments = {name: struct.pack(">BBH", 0xFF, 0xE1, len(exif) + 2) + exif for name, exif in files.items()}
    workspace, reasons = uploaded(tmp_path, {name: jpeg[:2] + segments[name] + jpeg[2:] for name, jpeg in jpegs.items()})
    assert reasons == dict.fromkeys(files)
    focal_px = pytest.approx(800 * 36 / 43.27)
    assert [(photo["width"], photo["focal_px"]) for photo in photos_of(workspace)] == [(480, None), (480, focal_px), (640, focal_px)]


def test_a_photo_too_small_for_any_step_is_dropped(tmp_path: Path) -> None:
    """The least that is taken is taken."""
    sizes = [(1, 1), (31, 40), (2000, 99), (32, 32), (640, 32), (2000, 100)]
    _, reasons = uploaded(tmp_path, {f"{size}.jpg": encoded(sharp_pixels(1, size)) for size in sizes}, drop_blurred=False)
    assert list(reasons.values()) == ["IMAGE_TOO_SMALL"] * 3 + [None] * 3


def test_photos_that_the_step_has_no_time_for_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends before its hard limit, which would cost all of them, three times."""
    looks = iter(range(1000))
    monkeypatch.setattr("services.ingest.stage.time", SimpleNamespace(monotonic=lambda: next(looks)))
    monkeypatch.setenv("MESHWORK_INGEST_TIMEOUT", "PT4S")
    _, reasons = uploaded(tmp_path, {f"{seed}.jpg": encoded(sharp_pixels(seed)) for seed in range(7)})
    assert Counter(reasons.values()) == {None: 4, "NO_TIME_LEFT": 3}
    assert "fewer" in CODES["NO_TIME_LEFT"].hint


def test_the_limits_of_time_leave_photos_some_of_the_hard_limit() -> None:
    """Ten minutes after fetching and videos at their longest, and five for those that were begun."""
    settings = IngestSettings()
    steps = [step for pipeline in load_pipelines().values() for step in pipeline.steps]
    hard_limit = timedelta(seconds=min(step.hard_limit_s for step in steps if step.stage == "ingest"))
    assert settings.fetch_timeout + settings.video_timeout + timedelta(minutes=10) <= settings.ingest_timeout
    assert settings.ingest_timeout + timedelta(minutes=5) <= hard_limit


def test_transparency_lies_on_white_and_other_colour_spaces_become_srgb(tmp_path: Path) -> None:
    """What a person would see on a white page is what later steps see."""
    clear = np.dstack([sharp_pixels(1), np.zeros((480, 640), np.uint8)])
    clear[:240, :, 3] = 255
    lab = Image.fromarray(sharp_pixels(2)).convert("CMYK")
    cmyk = io.BytesIO()
    lab.save(cmyk, "JPEG", quality=95)
    files = {"clear.png": encoded(clear, "PNG"), "cmyk.jpg": cmyk.getvalue(), "plain.jpg": encoded(sharp_pixels(3))}
    workspace, reasons = uploaded(tmp_path, files)
    assert set(reasons.values()) == {None}
    images = [np.asarray(Image.open(workspace.outputs / photo["file"])).astype(int) for photo in photos_of(workspace)]
    assert (images[0][240:] == 255).all()
    np.testing.assert_array_equal(images[0][:240], sharp_pixels(1)[:240])
    assert np.abs(images[1] - sharp_pixels(2)).mean() < 8  # JPEG of sharp edges


def test_formats_that_are_not_promised_are_refused(tmp_path: Path) -> None:
    """Pillow could read them; every reader is a way in, so only five are open."""
    files = {f"{kind}.jpg": encoded(sharp_pixels(1), kind) for kind in ("BMP", "GIF", "PPM", "TGA", "ICO", "JPEG2000")}
    _, reasons = uploaded(tmp_path, files)
    assert set(reasons.values()) == {"NOT_AN_IMAGE"}
    assert all(name in CODES["NOT_AN_IMAGE"].hint for name in ("GIF", "BMP", "AVIF", "JPEG 2000"))


def test_larger_photos_are_reduced_and_their_own_size_is_remembered(tmp_path: Path) -> None:
    """Later steps need no original; who wants its pixels knows the factor. A turned photo's size is that of the upright one."""
    exif = Image.Exif()
    exif[0x0112] = 8
    files = {f"{seed}.jpg": encoded(sharp_pixels(seed, (1600, 1200)), exif=exif) for seed in range(3)}
    workspace, _ = uploaded(tmp_path, files, max_image_size=800)
    sizes = {(p["width"], p["height"], p["original_width"], p["original_height"]) for p in photos_of(workspace)}
    assert sizes == {(600, 800, 1200, 1600)}


def test_uploads_stay_where_they_are(tmp_path: Path) -> None:
    """A folder can be run by hand twice."""
    files = {f"{seed}.jpg": encoded(sharp_pixels(seed)) for seed in range(3)}
    workspace, _ = uploaded(tmp_path, files)
    assert len(list(workspace.inputs("images").iterdir())) == 3


def test_a_server_that_never_answers_costs_its_photo_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of one photo is limited; the others go on."""
    monkeypatch.setenv("MESHWORK_ALLOWED_PRIVATE_NETWORKS", "127.0.0.1/32")
    monkeypatch.setenv("MESHWORK_PHOTO_TIMEOUT", "PT0.5S")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/late.jpg"
        good = {f"{seed}.jpg": encoded(sharp_pixels(seed)) for seed in range(3)}
        workspace = workspace_of(
            tmp_path, [ImageSource(name="late.jpg", url=url), *(ImageSource(name=name, key=f"k/{name}") for name in good)]
        )
        workspace.inputs("images").mkdir(parents=True)
        for index, (name, data) in enumerate(good.items()):
            (workspace.inputs("images") / f"{index + 1:03d}_{name}").write_bytes(data)
        report = IngestStage().run(workspace, IngestParams())
    assert {verdict.name: verdict.reason for verdict in report.images} == {"late.jpg": "TIMED_OUT"} | dict.fromkeys(good)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_whose_tls_breaks_off_costs_its_photo_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    """After the handshake, where errors of TLS have other names."""
    certificate = make_certificate(tmp_path, "IP:127.0.0.1")
    monkeypatch.setenv("MESHWORK_ALLOWED_PRIVATE_NETWORKS", "127.0.0.1/32")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    good = {f"{seed}.jpg": encoded(sharp_pixels(seed)) for seed in range(3)}
    with breaking_server(certificate, fault) as port:
        uploads = [ImageSource(name=name, key=f"k/{name}") for name in good]
        workspace = workspace_of(tmp_path, [*uploads, ImageSource(name="odd.jpg", url=f"https://127.0.0.1:{port}/odd.jpg")])
        workspace.inputs("images").mkdir(parents=True)
        for index, (name, data) in enumerate(good.items()):
            (workspace.inputs("images") / f"{index:03d}_{name}").write_bytes(data)
        report = IngestStage().run(workspace, IngestParams())
    assert {verdict.name: verdict.reason for verdict in report.images} == {"odd.jpg": "UNREACHABLE"} | dict.fromkeys(good)


def test_real_photos_are_kept_and_their_focal_length_is_known(tmp_path: Path, real_photos: Path) -> None:
    """Hand-held photos of a calm scene are not taken for blurred ones; the D3200's sensor gives the focal length within 1 %."""
    files = {path.name: path.read_bytes() for path in sorted((real_photos / "banana" / "images").iterdir())[:4]}
    workspace, reasons = uploaded(tmp_path, files, max_image_size=1000)
    assert reasons == dict.fromkeys(files)
    for photo in photos_of(workspace):
        assert photo["focal_px"] / 1000 == pytest.approx(5205 / 3008, rel=0.01)  # found by self-calibration at full size
