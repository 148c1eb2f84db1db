"""Surface where photos saw none.

Where an object moved between photos, or two of them have one ground, what some photos show stands in space that others looked through.
"""

import numpy as np

from services.postprocess.capture import Floats
from services.postprocess.free_space import FreeSpace
from services.postprocess.surface import Mesh

SAMPLES = 20_000  # places on the surface, each for the same share of its area
MARGIN = 0.02  # of the diagonal, by which a camera must have looked past a place


def looked_through(mesh: Mesh, free_space: FreeSpace) -> float:
    """Share of the surface's area in space that two photos or more, and more than saw it, looked through; 0 without depth maps."""
    margin = MARGIN * float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
    return float(free_space.empty(_spread_evenly(mesh), margin).mean())


def _spread_evenly(mesh: Mesh) -> Floats:
    """Centres n×3 of triangles, as often as their area asks for."""
    corners = mesh.vertices[mesh.faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    reached = np.cumsum(areas)
    taken = np.searchsorted(reached, (np.arange(SAMPLES) + 0.5) / SAMPLES * reached[-1])
    return np.asarray(corners[taken].mean(axis=1), np.float64)
