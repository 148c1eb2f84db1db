"""RESULTS.md has every row, those that failed included, and nothing of the machine but its cores."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.fidelity.real_sets import centre_errors_mm, fountain_centres, temple_centres
from tests.benchmarks.fidelity.table import FIDELITY, aligned, write_results

MEASURES = {
    "sfm": {"seconds": 20.0, "cpu_seconds": 30.0, "peak_mb": 700.0},
    "mvs": {"seconds": 60.0, "cpu_seconds": 110.0, "peak_mb": 1000.0},
    "export": {"seconds": 5.0, "cpu_seconds": 5.0, "peak_mb": 500.0},
}


def _row(**changes: Any) -> dict[str, Any]:
    identity = {"capture": "statue", "preset": "balanced", "commit": "abc1234", "cores": 2, "measures": MEASURES}
    surface: dict[str, Any] = dict.fromkeys(("f_score", "precision", "recall"), (0.9, 0.95, 0.98, 0.99))
    surface |= {"off_object": 0.012, "accuracy": 0.0004, "completeness": 0.0003}
    cameras = {"registered": 24, "total": 24, "centre_mean": 1e-4, "centre_max": 2e-4, "rotation_mean_deg": 0.01, "rotation_max_deg": 0.02}
    views = {"psnr": 38.123, "ssim": 0.98, "silhouette_iou": 0.99, "back_facing": 0.0, "missing": 0.0001}
    topology = {"triangles": 99000, "open_edges": 0, "turned_edges": 2}
    return {**identity, "surface": surface, "cameras": cameras, "views": views, "topology": topology, **changes}


def test_a_row_says_what_was_measured() -> None:
    """Seconds in all and after SfM, the largest peak, edges that are turned."""
    text = aligned([_row()], FIDELITY).splitlines()[1]
    for part in ("statue", "24/24", "0.900 0.950 0.980 0.990", "38.12", "1.2 %", "yes, 2 turned", "99,000", "85", "65", "145", "1000"):
        assert part in text


def test_a_capture_without_kept_out_views_has_dashes() -> None:
    """No PSNR is made up."""
    assert "–" in aligned([_row(views=None)], FIDELITY)


def test_results_hold_rendered_and_real_and_failed_rows(tmp_path: Path) -> None:
    """A table of each, and the reason why one has no figures."""
    identity = {"preset": "balanced", "commit": "abc1234", "cores": 2}
    real = {
        "capture": "banana",
        "registered": 14,
        "total": 16,
        "held_out_psnr_db": None,
        "centres_mm": None,
        "triangles": 9,
        "measures": MEASURES,
    }
    failed = {"capture": "thin", "error": "NO_SURFACE: nothing was found"}
    write_results([_row(), real | identity, failed | identity], tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| statue | balanced | 24/24 |" in text and "| banana | balanced | 14/16 | – | – |" in text
    assert "thin (balanced) failed: NO_SURFACE" in text
    assert "60 / 110 / 1000" in text and str(tmp_path) not in text


def test_true_centres_are_read_as_their_authors_wrote_them(tmp_path: Path) -> None:
    """Strecha's eighth line is a centre; Middlebury's R, t are world → camera."""
    (tmp_path / "cameras").mkdir()
    (tmp_path / "cameras" / "0000.jpg.camera").write_text("1 0 2\n0 1 3\n0 0 1\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n-7.0 -7.5 0.25\n3072 2048\n")
    (tmp_path / "templeR_par.txt").write_text("1\na.png 1 0 0 0 1 0 0 0 1 0 1 0 -1 0 0 0 0 1 2 3 4\n")
    np.testing.assert_allclose(fountain_centres(tmp_path)["0000.jpg"], [-7, -7.5, 0.25])
    np.testing.assert_allclose(temple_centres(tmp_path)["a.png"], [3, -2, -4])


def test_centre_errors_are_what_remains_after_alignment() -> None:
    """In millimetres; a similarity costs nothing."""
    true = {str(i): centre for i, centre in enumerate(np.random.default_rng(1).normal(0, 1, (8, 3)))}
    cameras = {name: {"R": np.eye(3).tolist(), "t": (-(3 * centre + 1)).tolist()} for name, centre in true.items()}
    assert centre_errors_mm(cameras, true) == pytest.approx((0, 0), abs=1e-6)
    cameras["3"]["t"][0] += 0.3
    mean, largest = centre_errors_mm(cameras, true)
    assert 5 < mean < largest < 100
