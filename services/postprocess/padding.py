"""What lies between and under the seen texels: gutters around charts, and a smooth colour where no photo looked."""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import diags
from scipy.sparse.linalg import spsolve

from services.postprocess.edges import Faces, vertex_graph

GUTTER_PX = 16  # texels around each chart that repeat its rim


def spread_over_unseen(colours: NDArray[np.float32], seen: NDArray[np.bool_], faces: Faces) -> NDArray[np.float32]:
    """Vertex colours n×3 with those that no photo saw replaced by the harmonic interpolation of their seen neighbours."""
    if seen.all() or not seen.any():
        return colours if seen.any() else np.full_like(colours, 0.2)
    weight = vertex_graph(faces, len(colours))
    unseen = np.flatnonzero(~seen)
    mean = colours[seen].mean(0)
    # The small term leads pieces without any seen vertex to the mean colour.
    laplacian = (diags(np.asarray(weight.sum(1)).ravel() + 1e-6) - weight).tocsr()[unseen]
    right = -laplacian[:, np.flatnonzero(seen)] @ colours[seen].astype(np.float64) + 1e-6 * mean
    filled = colours.copy()
    filled[unseen] = spsolve(laplacian[:, unseen].tocsc(), right).reshape(-1, 3)
    return filled


def pad(texture: NDArray[np.uint8], covered: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The texture with each chart's rim repeated around it, and the mean colour beyond."""
    distance, label = cv2.distanceTransformWithLabels((~covered).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    nearest = np.zeros(int(label.max()) + 1, np.int64)
    nearest[label[covered]] = np.flatnonzero(covered)
    flat = texture.reshape(-1, 3)
    padded = flat[nearest[label]].reshape(texture.shape)
    beyond = (distance > GUTTER_PX) & ~covered
    padded[beyond] = flat[covered.ravel()].mean(0).astype(np.uint8)
    return np.asarray(padded)
