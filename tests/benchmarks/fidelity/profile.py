"""Where a stage's seconds go, step by step: the named functions are timed while the stage computes again in a copy of its workspace.

python -m tests.benchmarks.fidelity.profile RUN [--preset balanced] [--stages sfm postprocess …]     RUN: a folder that `chain` wrote

Wall and CPU seconds of the whole process, warm kernels presumed: run it twice after a change. Wall far above half of CPU on two cores is
work that one core does alone. Steps inside steps are indented, and their seconds are part of the outer ones'.
"""

import argparse
import functools
import importlib
import json
import pkgutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.contracts.routing import STAGES
from tests.support.by_hand import params_of

# What is timed in each stage: `module.function`, where it is defined. Imports count towards the stage, not towards a step.
STEPS: dict[str, tuple[str, ...]] = {
    "ingest": (),
    "segmentation": (),
    "sfm": (
        *("ladder.extract_all", "matching.write_database", "pairs.select_pairs", "matching.match_pairs", "mapping.map_incrementally"),
        *("keypoint_refinement.refine_keypoints", "bundle_adjustment.adjust", "distortion.settle_distortion"),
        *("reconstruction.write_outputs", "undistortion.undistort"),
    ),
    "mvs": ("rounds.build_scene", "rounds.reconstruct", "fusion.together", "fusion.thinned", "fusion.write_ply"),
    "postprocess": (
        *("capture.read_cloud", "isolation.isolate", "isolation.keep_scene", "isolation.tidy", "support_plane.find_support_plane"),
        *("surface.reconstruct", "surface._poisson", "surface.impossible", "carving.carved_border", "cleaning.clean", "cleaning.decimate"),
        *("cleaning.manifold", "seen_ground.find_seen_ground", "membrane.stretch_unsupported", "membrane._solve", "membrane._push_in"),
        *("refinement.refine", "vertex_views.stack_photos", "vertex_views.views_of_vertices", "refinement_kernels.match"),
        *("atlas.unwrap", "atlas._uvatlas", "texturing.paint", "atlas.locate_texels", "texturing.collect_views", "texturing._fill"),
        *("holdout.held_out_psnr", "capture.write_cloud"),
    ),
    "export": ("preview.render_preview", "glb.glb_bytes", "obj.obj_archive"),
}


@dataclass
class Spent:
    """Of one step at one depth: seconds over all its calls."""

    depth: int
    calls: int = 0
    wall: float = 0.0
    cpu: float = 0.0


@dataclass
class Clock:
    """Seconds by path of names, in the order in which steps were entered."""

    spent: dict[tuple[str, ...], Spent] = field(default_factory=dict)
    at: threading.local = field(default_factory=threading.local)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed under this name."""

        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            outer: tuple[str, ...] = getattr(self.at, "path", ())
            self.at.path = path = (*outer, name)
            entry = self.spent.setdefault(path, Spent(len(outer)))
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                entry.calls += 1
                entry.wall += time.perf_counter() - wall
                entry.cpu += time.process_time() - cpu
                self.at.path = outer

        return run


def functions_of(stage: str) -> dict[str, Callable[..., Any]]:
    """What `STEPS` names, by those names."""
    homes = {step: step.partition(".") for step in STEPS[stage]}
    return {step: getattr(importlib.import_module(f"services.{stage}.{home}"), name) for step, (home, _, name) in homes.items()}


def watch(stage: str, clock: Clock) -> None:
    """Times the stage's named functions, wherever its modules refer to them."""
    package = importlib.import_module(f"services.{stage}")
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("__")]
    modules = [importlib.import_module(f"services.{stage}.{name}") for name in names]
    for step, original in functions_of(stage).items():
        name = step.partition(".")[2]
        timed = clock.timed(step, original)
        for module in modules:
            if getattr(module, name, None) is original:
                setattr(module, name, timed)


def profile_stage(stage: str, run: Path, preset: str) -> list[dict[str, Any]]:
    """Computes the stage of a run again, in this process; rows with the keys step, depth, calls, wall and cpu. First the whole of it."""
    from shared.runtime.child_main import load_stage
    from shared.runtime.workspace import Workspace

    target = f"services.{stage}.stage:{stage.capitalize()}Stage"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "request.json").symlink_to((run / stage / "request.json").resolve())
        (root / "inputs").symlink_to((run / stage / "inputs").resolve())
        clock = Clock()
        watch(stage, clock)
        loaded = load_stage(target)
        params = loaded.Params.model_validate(params_of(preset)[stage])
        clock.timed(stage, loaded.run)(Workspace(root), params)
    return [{"step": path[-1], "depth": s.depth, "calls": s.calls, "wall": s.wall, "cpu": s.cpu} for path, s in clock.spent.items()]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; steps in the order in which they were entered."""
    lines = ["| step | calls | seconds | CPU s |", "|---|---|---|---|"]
    lines += [f"| {'· ' * r['depth']}{r['step']} | {r['calls']} | {r['wall']:.2f} | {r['cpu']:.2f} |" for r in rows]
    return "\n".join(lines)


def main() -> None:
    """The command line; each stage in a process of its own, whose start and imports are a row too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(profile_stage(given.stages[0], given.run, given.preset)))
        return
    rows: list[dict[str, Any]] = []
    for stage in given.stages:
        command = [sys.executable, "-m", "tests.benchmarks.fidelity.profile", str(given.run), "--preset", given.preset]
        started = time.perf_counter()
        done = subprocess.run([*command, "--alone", "--stages", stage], stdout=subprocess.PIPE, check=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rest = time.perf_counter() - started - found[0]["wall"]
        rows += [*found, {"step": "start, imports and end of the process", "depth": 1, "calls": 1, "wall": rest, "cpu": float("nan")}]
    print(table(rows))


if __name__ == "__main__":
    main()
