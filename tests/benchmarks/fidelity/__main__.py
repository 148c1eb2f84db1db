"""The fidelity benchmark.

python -m tests.benchmarks.fidelity [--captures main | rest | animal statue …] [--preset balanced] [--out .bench] [--data FOLDER]
    reconstructs captures and real sets (fountain-p11, temple-ring, sceaux-castle, banana; below FOLDER), scores them, prints tables,
    rewrites RESULTS.md
    OUT/captures/: rendered once · OUT/runs/<preset>/<name>/: the stages' results · OUT/pictures/ · OUT/results.json: the newest row of each
python -m tests.benchmarks.fidelity render NAME OUT      photos/, truth/ and kept_out/ of a capture
python -m tests.benchmarks.fidelity score RUN CAPTURE    CAPTURE: its folder, or its name when rendered below .bench
python -m tests.benchmarks.fidelity served CAPTURE …     through the gateway, embedded and mesh (served.py)
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.fidelity import served
from tests.benchmarks.fidelity.captures import CAPTURES, MAIN, rendered
from tests.benchmarks.fidelity.chain import StageFailedError, identity, run_chain_apart
from tests.benchmarks.fidelity.real_sets import REAL_SETS, measure
from tests.benchmarks.fidelity.rendering import write_comparisons
from tests.benchmarks.fidelity.score import alignment, deliverables, has_kept_out, score_run
from tests.benchmarks.fidelity.table import DETAIL, FIDELITY, REAL, aligned, write_results

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def main() -> int:
    """Returns 1 when a chain failed."""
    if sys.argv[1:2] == ["render"]:
        return _render(sys.argv[2:])
    if sys.argv[1:2] == ["score"]:
        return _score(sys.argv[2:])
    if sys.argv[1:2] == ["served"]:
        return served.main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.fidelity", epilog="See also: render NAME OUT, score RUN CAPTURE, served CAPTURE …."
    )
    parser.add_argument("--captures", nargs="+", default=["main"], choices=["main", "rest", *CAPTURES, *REAL_SETS], metavar="NAME")
    parser.add_argument("--preset", default="balanced", choices=["fastest", "balanced", "quality"])
    parser.add_argument("--params", type=json.loads, default={}, help='{"<stage>": {…}} over those of the preset')
    parser.add_argument("--out", type=Path, default=ROOT / ".bench")
    parser.add_argument("--data", type=Path, help="the folder of the real sets")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md", help="rewritten from OUT/results.json")
    given = parser.parse_args()
    given.out, given.data = given.out.resolve(), given.data and given.data.resolve()
    rows = []
    for name in _names(given.captures):
        print(f"{name}, {given.preset} …", flush=True)
        row = identity(name, given.preset) | _row(name, given)
        rows.append(row)
        write_results(_remember(row, given.out / "results.json"), given.results)
        _print([row])
    if len(rows) > 1:
        _print(rows)
    return int(any("error" in row for row in rows))


def _names(wanted: list[str]) -> list[str]:
    groups = {"main": list(MAIN), "rest": [name for name in (*CAPTURES, *REAL_SETS) if name not in MAIN]}
    return [name for word in wanted for name in groups.get(word, [word])]


def _row(name: str, given: argparse.Namespace) -> dict[str, Any]:
    run, pictures = given.out / "runs" / given.preset / name, given.out / "pictures" / given.preset
    pictures.mkdir(parents=True, exist_ok=True)
    capture = rendered(name, given.out / "captures") if name in CAPTURES else None
    if capture is None and given.data is None:
        raise SystemExit(f"{name} is photographs: say where they are with --data")
    photos = capture / "photos" if capture else given.data / REAL_SETS[name].photos
    shutil.rmtree(run, ignore_errors=True)
    try:
        run_chain_apart(photos, run, given.preset, given.params)
        shutil.copy(deliverables(run) / "preview.png", pictures / f"{name}.png")
        return _score_capture(run, capture, pictures / name) if capture else measure(name, run, given.data)
    except (StageFailedError, ValueError) as failure:  # ValueError: too few cameras to align
        return {"error": str(failure)}


def _score_capture(run: Path, capture: Path, pictures: Path) -> dict[str, Any]:
    from deploy.demo.scoring import load_truth

    if has_kept_out(capture):
        similarity, _ = alignment(run, load_truth(capture / "truth", samples=1000))
        write_comparisons(deliverables(run) / "model.glb", similarity, capture / "truth", pictures)
    return score_run(run, capture).as_json()


def _remember(row: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """All rows known, the newest of each capture and preset, in the order of the captures."""
    known = {(r["capture"], r["preset"]): r for r in json.loads(path.read_text())} if path.exists() else {}
    known[row["capture"], row["preset"]] = row
    order = [*CAPTURES, *REAL_SETS]
    rows = sorted(known.values(), key=lambda r: (order.index(r["capture"]), r["preset"]))
    path.write_text(json.dumps(rows, indent=1))
    return rows


def _print(rows: list[dict[str, Any]]) -> None:
    for columns, wanted in ((FIDELITY, "surface"), (DETAIL, "surface"), (REAL, "held_out_psnr_db")):
        if chosen := [row for row in rows if wanted in row]:
            print(aligned(chosen, columns) + "\n", flush=True)
    for row in rows:
        if "error" in row:
            print(f"{row['capture']} failed: {row['error']}", flush=True)


def _render(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fidelity render")
    parser.add_argument("name", choices=CAPTURES)
    parser.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    CAPTURES[given.name].render(given.out)
    return 0


def _score(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fidelity score")
    parser.add_argument("run", type=Path, help="a folder that `chain` wrote, or one with model.glb, mesh.ply and cameras.json")
    parser.add_argument(
        "capture", help="its folder (photos/, truth/, kept_out/), or its name: rendered below .bench when it is not there yet"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--pictures", type=Path, help="write photo | model | error for each view kept out into this folder")
    given = parser.parse_args(arguments)
    folder = rendered(given.capture, ROOT / ".bench" / "captures") if given.capture in CAPTURES else Path(given.capture)
    row = _score_capture(given.run, folder, given.pictures) if given.pictures else score_run(given.run, folder).as_json()
    if given.json:
        print(json.dumps(row, indent=1))
    else:
        _print([identity(given.capture, "–") | row])
    return 0


if __name__ == "__main__":
    sys.exit(main())
