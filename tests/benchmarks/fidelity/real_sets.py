"""Photographs that people took: what can be measured on them without a true surface."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.demo.scoring import read_cameras, umeyama
from tests.benchmarks.fidelity.score import deliverables, topology_of
from tests.benchmarks.fidelity.viewer import load_glb

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RealSet:
    """A folder below the shared data. `true_centres`: name → camera centre in metres, where they are known."""

    photos: str
    true_centres: Any = None


def fountain_centres(folder: Path) -> dict[str, Floats]:
    """Strecha's files: eighth line the centre, metres."""
    files = sorted((folder / "cameras").glob("*.camera"))
    return {path.stem: np.array(path.read_text().split("\n")[7].split(), np.float64) for path in files}


def temple_centres(folder: Path) -> dict[str, Floats]:
    """Middlebury's list: name, K, R, t per line (world → camera), metres. The stored photos are turned; their centres are not."""
    centres = {}
    for line in (folder / "templeR_par.txt").read_text().splitlines()[1:]:
        name, *numbers = line.split()
        values = np.array(numbers, np.float64)
        centres[name] = -values[9:18].reshape(3, 3).T @ values[18:21]
    return centres


REAL_SETS = {
    "fountain-p11": RealSet("fountain-p11", fountain_centres),
    "temple-ring": RealSet("temple-ring", temple_centres),
    "sceaux-castle": RealSet("sceaux-castle"),
    "banana": RealSet("banana/images"),
}


def centre_errors_mm(cameras: dict[str, Any], true: dict[str, Floats]) -> tuple[float, float]:
    """Mean and largest distance of the delivered centres from the true ones after similarity alignment."""
    names = sorted(set(cameras) & set(true))
    delivered = np.array([-np.array(cameras[name]["R"]).T @ np.array(cameras[name]["t"]) for name in names])
    wanted = np.array([true[name] for name in names])
    distances = 1000 * np.linalg.norm(umeyama(delivered, wanted)(delivered) - wanted, axis=1)
    return float(distances.mean()), float(distances.max())


def measure(name: str, run: Path, data: Path) -> dict[str, Any]:
    """What RESULTS.md says about a run of `chain` on a real set."""
    real, delivered = REAL_SETS[name], deliverables(run)
    cameras = read_cameras(delivered / "cameras.json")
    summary = json.loads((run / "postprocess" / "report.json").read_text())["summary"]
    photos = [path for path in (data / real.photos).iterdir() if path.suffix.lower() in {".jpg", ".png"}]
    return {
        "registered": len(cameras),
        "total": len(photos),
        "held_out_psnr_db": summary.get("held_out_psnr_db"),
        "centres_mm": centre_errors_mm(cameras, real.true_centres(data / real.photos)) if real.true_centres else None,
        "triangles": topology_of(load_glb(delivered / "model.glb")).triangles,
        "measures": json.loads((run / "measures.json").read_text()),
    }
