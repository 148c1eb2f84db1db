"""All that is measured on one delivered model, against the truth of its capture."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open3d as o3d

from deploy.demo.scoring import (
    SAMPLES,
    CameraErrors,
    Similarity,
    SurfaceScore,
    Truth,
    align_cameras,
    delivered_samples,
    load_truth,
    read_cameras,
    score_surface,
)
from tests.benchmarks.fidelity.rendering import ViewScores, score_views
from tests.benchmarks.fidelity.viewer import TexturedModel, load_glb


@dataclass(frozen=True)
class Topology:
    """Of the GLB, vertices at the same place merged (UV seams). `open_edges`: with other than two faces; `turned_edges`: whose two
    faces disagree about which side is outside."""

    triangles: int
    open_edges: int
    turned_edges: int

    @property
    def watertight(self) -> bool:
        """Whether every edge has exactly two faces."""
        return self.triangles > 0 and self.open_edges == 0


@dataclass(frozen=True)
class Score:
    """One model. `views`: None where no views were kept out; `measures`: by stage, as `chain` writes them."""

    surface: SurfaceScore
    cameras: CameraErrors
    views: ViewScores | None
    topology: Topology
    measures: dict[str, dict[str, float]]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def deliverables(run: Path) -> Path:
    """The folder with model.glb and cameras.json of a run of `chain`, or `run` itself."""
    inside = run / "export" / "outputs"
    return inside if inside.is_dir() else run


def alignment(run: Path, truth: Truth) -> tuple[Similarity, CameraErrors]:
    """From the model's frame to the truth's, by the cameras of the photos."""
    return align_cameras(read_cameras(deliverables(run) / "cameras.json"), truth.cameras, truth.diagonal)


def score_run(run: Path, capture: Path, samples: int = SAMPLES) -> Score:
    """Scores a run of `chain` (or any folder with model.glb, mesh.ply, cameras.json), at `samples` points of each surface."""
    delivered, truth = deliverables(run), load_truth(capture / "truth", samples)
    similarity, errors = alignment(run, truth)
    points, mesh = delivered_samples(delivered / "mesh.ply", samples)
    mesh.vertices = o3d.utility.Vector3dVector(similarity(np.asarray(mesh.vertices)))
    measures = run / "measures.json"
    return Score(
        surface=score_surface(similarity(points), mesh, truth),
        cameras=errors,
        views=score_views(delivered / "model.glb", similarity, capture / "truth") if has_kept_out(capture) else None,
        topology=topology_of(load_glb(delivered / "model.glb")),
        measures=json.loads(measures.read_text()) if measures.exists() else {},
    )


def has_kept_out(capture: Path) -> bool:
    """Whether the capture has photos that the pipeline does not get."""
    return (capture / "kept_out").is_dir() and any((capture / "kept_out").iterdir())


def topology_of(model: TexturedModel) -> Topology:
    """Counts edges after vertices at exactly the same place are merged: exporters write the same numbers on both sides of a seam."""
    _, welded = np.unique(model.vertices, axis=0, return_inverse=True)
    faces = welded.reshape(-1)[model.faces]
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, index, uses = np.unique(np.sort(directed, axis=1), axis=0, return_inverse=True, return_counts=True)
    upwards = np.bincount(index.reshape(-1), weights=directed[:, 0] < directed[:, 1], minlength=len(uses))
    return Topology(len(faces), int((uses != 2).sum()), int(((uses == 2) & (upwards != 1)).sum()))
