"""Embedded and mesh stand beside each other in RESULTS.md, whatever else writes there."""

from pathlib import Path
from typing import Any

from shared.contracts.routing import STAGES
from tests.benchmarks.fidelity.served_table import lines, write_section
from tests.benchmarks.fidelity.table import write_results


def _row(mode: str, **changes: Any) -> dict[str, Any]:
    identity = {"capture": "animal", "preset": "balanced", "mode": mode, "commit": "abc1234", "cores": 2}
    surface = {"f_score": (0.99, 0.995, 0.999, 1.0), "off_object": 0.0}
    return {
        **identity,
        "surface": surface,
        "views": {"psnr": 38.0},
        "seconds": 100.0,
        "cpu_seconds": {"stage": 150.0, "minio": 1.5, "postgres": 0.5},
        "elsewhere": {"mvs": 1.25, "webhook": 0.5},
        "stages": dict.fromkeys(STAGES, 15.0),
        **changes,
    }


def test_the_mesh_is_told_in_percent_of_embedded() -> None:
    """Of every figure but those that are 0."""
    embedded, mesh, difference = lines([_row("embedded"), _row("mesh", seconds=104.0)])
    assert (embedded["webhook s"], embedded["computing s"], embedded["elsewhere s"]) == ("100.0", "90.0", "10.0")
    assert (mesh["elsewhere s"], mesh["elsewhere CPU s"]) == ("14.0", "2.0")
    assert (difference["webhook s"], difference["PSNR dB"], difference["off object"]) == ("+4.0 %", "+0.0 %", "–")


def test_one_mode_alone_has_no_difference() -> None:
    """Nor does another capture's embedded row count."""
    assert [line["through"] for line in lines([_row("mesh"), _row("embedded", capture="statue")])] == ["mesh", "embedded"]


def test_the_section_replaces_itself_and_outlives_the_other_tables(tmp_path: Path) -> None:
    """It is written twice, and other results after it."""
    path = tmp_path / "RESULTS.md"
    write_results([], path)
    write_section([_row("embedded")], path)
    write_section([_row("embedded"), _row("mesh")], path)
    write_results([{"capture": "thin", "preset": "balanced", "error": "NO_SURFACE"}], path)
    text = path.read_text()
    assert text.count("## Embedded and mesh") == 1 and text.count("| animal | balanced | mesh |") == 1
    assert text.index("NO_SURFACE") < text.index("## Embedded and mesh")
