"""A small capture through the whole chain: what it must at least come to. `make bench` says how good it is at full size.

In brackets: what was reached when the floors were set. The same code on the same machine reaches the same cameras, cloud and surface, with
one thread too; the atlas differs from run to run, and by it PSNR by 0.02 dB and SSIM by 0.0004. Floors leave several times what F, area and
PSNR moved by from one harmless change to the next (0.004, 0.5 %, 0.6 dB); a change that falls below one made models worse.
"""

import json
from pathlib import Path

import pytest

from shared.contracts.routing import STAGES
from tests.benchmarks.fidelity.captures import SMALL
from tests.benchmarks.fidelity.chain import run_chain_apart
from tests.benchmarks.fidelity.score import Score, score_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen photos of 640 pixels, rendered and reconstructed with the fastest preset."""
    folder = tmp_path_factory.mktemp("fidelity")
    SMALL.render(folder / "capture")
    run_chain_apart(folder / "capture" / "photos", folder / "run", "fastest")
    return folder


@pytest.fixture(scope="module")
def score(run: Path) -> Score:
    """Of the delivered model."""
    return score_run(run / "run", run / "capture", samples=50_000)


def test_every_camera_is_found(score: Score) -> None:
    """All 14; centres within 0.02 % of the object's diagonal (0.006), a tenth of what a pixel spans."""
    assert score.cameras.registered == 14
    assert score.cameras.centre_mean < 0.0002


def test_the_surface_is_near_the_truth(score: Score) -> None:
    """F at 0.1, 0.25, 0.5 and 1 % of the diagonal (0.905, 0.955, 0.980, 0.995); a pixel spans 0.18 %."""
    floors = (0.885, 0.94, 0.965, 0.98)
    assert all(reached > floor for reached, floor in zip(score.surface.f_score, floors, strict=True)), score.surface


def test_the_object_is_delivered_alone_and_closed(score: Score) -> None:
    """At most 3 % of the surface is off the object (1.7: so few photos see little of the belly), and every edge has two faces."""
    assert score.surface.off_object < 0.03
    assert score.topology.watertight


def test_views_that_it_never_had_look_like_their_photos(score: Score) -> None:
    """PSNR (31.1 dB), SSIM (0.952) and silhouette (0.978); hardly anything is missing (0.16 %), nothing inside out."""
    assert score.views is not None
    assert score.views.psnr > 29.5 and score.views.ssim > 0.935
    assert score.views.silhouette_iou > 0.97
    assert score.views.missing < 0.005 and score.views.back_facing < 0.001


def test_no_stage_takes_more_memory_than_a_small_machine_has(run: Path) -> None:
    """3 GiB each."""
    measures = json.loads((run / "run" / "measures.json").read_text())
    assert max(measure["peak_mb"] for measure in measures.values()) < 3072


def test_the_report_tells_what_was_made_and_finds_nothing_to_doubt(run: Path, score: Score) -> None:
    """Verdict pass without reasons; photos, cameras, cloud, mesh, and what every stage before export took."""
    report = json.loads((run / "run" / "export" / "outputs" / "report.json").read_text())
    assert (report["verdict"], report["reasons"]) == ("pass", [])
    assert report["images"]["used"] == report["images"]["registered"] == 14
    assert report["cameras"]["reprojection_error_px"] < 0.05 and report["cloud"]["dense_points"] > 75_000
    assert report["mesh"]["triangles"] == score.topology.triangles and report["mesh"]["watertight"]
    assert [stage["name"] for stage in report["stages"]] == list(STAGES[:-1])
    assert all(stage["seconds"] > 0 and stage["peak_memory_bytes"] > 0 for stage in report["stages"])
