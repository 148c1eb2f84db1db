"""What the mesh made of a capture beside what the embedded mode made of it: printed, and a section of RESULTS.md."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from shared.contracts.routing import STAGES
from tests.benchmarks.fidelity.table import SERVED_HEADING, Column, markdown

Json = dict[str, Any]
_INTRODUCTION = f"""{SERVED_HEADING}

Written by `make bench-served`: a capture posted to a gateway, scored from its downloads. Embedded is one process; the mesh is RabbitMQ,
PostgreSQL, MinIO, the gateway and a worker per stage on the same machine; each after a job that compiled kernels and loaded libraries.
Webhook: seconds from the answer that accepted the job. Computing: the sum of the stages, as the job has them; elsewhere: the rest (queues,
files to the store and back, the webhook). CPU s: of the processes that compute, which other work on the machine hardly changes, and of all
others, servers included, whose upkeep grows with the time that passes.
"""


def _f_score(at: int) -> Callable[[Json], float]:
    return lambda row: float(row["surface"]["f_score"][at])


def _stage(name: str) -> Callable[[Json], float]:
    return lambda row: float(row["stages"][name])


def _computing(row: Json) -> float:
    return float(sum(row["stages"].values()))


# Name, value, how it is written.
_FIGURES: list[tuple[str, Callable[[Json], float], str]] = [
    *((f"F at {share} %", _f_score(i), "{:.4f}") for i, share in enumerate((0.1, 0.25, 0.5))),
    ("PSNR dB", lambda row: float(row["views"]["psnr"]), "{:.2f}"),
    ("off object", lambda row: float(row["surface"]["off_object"]), "{:.2%}"),
    ("webhook s", lambda row: float(row["seconds"]), "{:.1f}"),
    ("computing s", _computing, "{:.1f}"),
    ("elsewhere s", lambda row: float(row["seconds"]) - _computing(row), "{:.1f}"),
    ("CPU s computing", lambda row: float(row["cpu_seconds"]["stage"]), "{:.1f}"),
    ("elsewhere CPU s", lambda row: float(sum(row["cpu_seconds"].values()) - row["cpu_seconds"]["stage"]), "{:.1f}"),
    *((name, _stage(name), "{:.1f}") for name in STAGES),
]


def columns() -> list[Column]:
    """Of rows as `lines` makes them."""
    names = ["capture", "preset", "through", *(name for name, _, _ in _FIGURES), "cores", "commit"]
    return [(name, lambda row, name=name: row[name]) for name in names]  # type: ignore[misc]


def lines(rows: Iterable[Json]) -> list[Json]:
    """A line of texts per row, and after each pair of modes one that says how far the mesh is from embedded."""
    found: list[Json] = []
    pairs: dict[tuple[str, str], list[Json]] = {}
    for row in rows:
        pairs.setdefault((row["capture"], row["preset"]), []).append(row)
    for pair in pairs.values():
        by_mode = {row["mode"]: row for row in pair}
        found += [_line(row) for row in pair]
        if {"embedded", "mesh"} <= set(by_mode):
            found.append(_difference(by_mode["embedded"], by_mode["mesh"]))
    return found


def _line(row: Json) -> Json:
    texts = {name: text.format(value(row)) for name, value, text in _FIGURES}
    return {
        "capture": row["capture"],
        "preset": row["preset"],
        "through": row["mode"],
        "cores": str(row["cores"]),
        "commit": row["commit"],
        **texts,
    }


def _difference(embedded: Json, mesh: Json) -> Json:
    texts = {name: _percent(value(embedded), value(mesh)) for name, value, _ in _FIGURES}
    return {"capture": "", "preset": "", "through": "difference", "cores": "", "commit": "", **texts}


def _percent(before: float, after: float) -> str:
    return "–" if before == 0 else f"{100 * (after / before - 1):+.1f} %"


def parts_of_elsewhere(rows: Iterable[Json]) -> str:
    """Where the seconds in which nothing computed went, and the CPU seconds of what does not compute: the largest parts of each row."""
    return "\n".join(
        f"* {row['capture']}, {row['preset']}, {row['mode']}: seconds before the end of {_largest(row['elsewhere'])};"
        f" CPU seconds of {_largest({name: spent for name, spent in row['cpu_seconds'].items() if name != 'stage'})}."
        for row in rows
    )


def _largest(parts: dict[str, float], count: int = 5) -> str:
    return ", ".join(f"{name} {parts[name]:.1f}" for name in sorted(parts, key=lambda name: -parts[name])[:count])


def write_section(rows: Sequence[Json], path: Path) -> None:
    """Puts the section into RESULTS.md, in the place of the one that is there; it is the last."""
    before = (path.read_text() if path.exists() else "").partition(SERVED_HEADING)[0].rstrip("\n")
    path.write_text(f"{before}\n\n{_INTRODUCTION}\n{markdown(lines(rows), columns())}\n\n{parts_of_elsewhere(rows)}\n")
