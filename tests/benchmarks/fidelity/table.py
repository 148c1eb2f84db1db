"""Results as tables: printed, and RESULTS.md."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Column = tuple[str, Callable[[Json], str]]

SERVED_HEADING = "## Embedded and mesh"  # the last section of RESULTS.md, which `served` writes

_INTRODUCTION = """# Results of the last run

Written by `make bench` (the first four captures) and `make bench-all`; `NOTES.md` says how they came about. Lengths are shares of the
object's diagonal. F, precision and recall: against the surface that at least two photos saw. Off object: share of the delivered surface
farther than 2 % of the diagonal from the object. PSNR, SSIM, silhouette: the GLB rendered at the true cameras of 4 photos that the pipeline
never had, taken at the exact mean exposure. Cores and the commit belong to each line; where CPU seconds are fewer than seconds, the machine
had other work as well.
"""


def _share(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _view(name: str, text: Callable[[float], str]) -> Callable[[Json], str]:
    return lambda row: text(row["views"][name]) if row["views"] else "–"


def _total(row: Json, name: str = "seconds") -> float:
    return float(sum(measure[name] for measure in row["measures"].values()))


def _after_sfm(row: Json) -> float:
    return float(sum(row["measures"].get(stage, {"seconds": 0.0})["seconds"] for stage in ("mvs", "postprocess", "export")))


def _peak(row: Json) -> float:
    return float(max((measure["peak_mb"] for measure in row["measures"].values()), default=0.0))


def _thresholds(name: str) -> Callable[[Json], str]:
    return lambda row: " ".join(f"{value:.3f}" for value in row["surface"][name])


def _watertight(row: Json) -> str:
    topology = row["topology"]
    text = "yes" if topology["open_edges"] == 0 else f"{topology['open_edges']} open edges"
    return text + (f", {topology['turned_edges']} turned" if topology["turned_edges"] else "")


_IDENTITY: list[Column] = [("capture", lambda row: row["capture"]), ("preset", lambda row: row["preset"])]
FIDELITY: list[Column] = [
    *_IDENTITY,
    ("photos", lambda row: f"{row['cameras']['registered']}/{row['cameras']['total']}"),
    ("F at 0.1 0.25 0.5 1 %", _thresholds("f_score")),
    ("PSNR dB", _view("psnr", lambda value: f"{value:.2f}")),
    ("SSIM", _view("ssim", lambda value: f"{value:.3f}")),
    ("off object", lambda row: _share(row["surface"]["off_object"])),
    ("silhouette", _view("silhouette_iou", lambda value: f"{value:.3f}")),
    ("missing", _view("missing", lambda value: _share(value, 2))),
    ("back-facing", _view("back_facing", lambda value: _share(value, 2))),
    ("watertight", _watertight),
    ("triangles", lambda row: f"{row['topology']['triangles']:,}"),
    ("seconds", lambda row: f"{_total(row):.0f}"),
    ("after SfM", lambda row: f"{_after_sfm(row):.0f}"),
    ("CPU s", lambda row: f"{_total(row, 'cpu_seconds'):.0f}"),
    ("peak MiB", lambda row: f"{_peak(row):.0f}"),
]
DETAIL: list[Column] = [
    *_IDENTITY,
    ("precision", _thresholds("precision")),
    ("recall", _thresholds("recall")),
    ("accuracy", lambda row: _share(row["surface"]["accuracy"], 3)),
    ("completeness", lambda row: _share(row["surface"]["completeness"], 3)),
    ("centres mean", lambda row: _share(row["cameras"]["centre_mean"], 3)),
    ("max", lambda row: _share(row["cameras"]["centre_max"], 3)),
    ("rotations mean", lambda row: f"{row['cameras']['rotation_mean_deg']:.3f}°"),
    ("max", lambda row: f"{row['cameras']['rotation_max_deg']:.3f}°"),
    ("cores", lambda row: str(row["cores"])),
    ("commit", lambda row: row["commit"]),
]
REAL: list[Column] = [
    ("set", lambda row: row["capture"]),
    ("preset", lambda row: row["preset"]),
    ("photos", lambda row: f"{row['registered']}/{row['total']}"),
    ("held-out PSNR dB", lambda row: "–" if row["held_out_psnr_db"] is None else f"{row['held_out_psnr_db']:.2f}"),
    ("camera centres mean, max", lambda row: "–" if not row["centres_mm"] else "{:.2f}, {:.2f} mm".format(*row["centres_mm"])),
    ("triangles", lambda row: f"{row['triangles']:,}"),
    ("seconds", lambda row: f"{_total(row):.0f}"),
    ("CPU s", lambda row: f"{_total(row, 'cpu_seconds'):.0f}"),
    ("peak MiB", lambda row: f"{_peak(row):.0f}"),
    ("cores", lambda row: str(row["cores"])),
    ("commit", lambda row: row["commit"]),
]


def _stage_columns(rows: Sequence[Json]) -> list[Column]:
    stages = list(dict.fromkeys(stage for row in rows for stage in row["measures"]))

    def text(stage: str) -> Callable[[Json], str]:
        def of(row: Json) -> str:
            measure = row["measures"].get(stage)
            return f"{measure['seconds']:.0f} / {measure['cpu_seconds']:.0f} / {measure['peak_mb']:.0f}" if measure else "–"

        return of

    return [*_IDENTITY, *((stage, text(stage)) for stage in stages)]


def markdown(rows: Iterable[Json], columns: Sequence[Column]) -> str:
    """A table, a line per row."""
    lines = ["| " + " | ".join(name for name, _ in columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(text(row) for _, text in columns) + " |" for row in rows]
    return "\n".join(lines)


def aligned(rows: Sequence[Json], columns: Sequence[Column]) -> str:
    """The same for a terminal."""
    cells = [[name for name, _ in columns], *([text(row) for _, text in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)


def write_results(rows: Sequence[Json], path: Path) -> None:
    """RESULTS.md. Rows without a score say why."""
    scored = [row for row in rows if "surface" in row]
    real = [row for row in rows if "held_out_psnr_db" in row]
    failed = [row for row in rows if "error" in row]
    parts = [_INTRODUCTION]
    if scored:
        parts += ["## Rendered captures\n", markdown(scored, FIDELITY), "\n## Surface and cameras in detail\n", markdown(scored, DETAIL)]
    if real:
        parts += ["\n## Photographs that people took\n", markdown(real, REAL)]
    if scored or real:
        measured = [*scored, *real]
        parts += ["\n## Stages: seconds / CPU seconds / peak MiB\n", markdown(measured, _stage_columns(measured))]
    parts += [f"\n{row['capture']} ({row['preset']}) failed: {row['error']}" for row in failed]
    path.write_text("\n".join(parts) + "\n" + _other_sections(path))


def _other_sections(path: Path) -> str:
    """What another verb wrote at the end of the file."""
    _, heading, rest = (path.read_text() if path.exists() else "").partition(f"\n{SERVED_HEADING}\n")
    return heading + rest
