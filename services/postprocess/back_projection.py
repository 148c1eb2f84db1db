"""Gives the texture back the sharpness that sampling and blending photos took from it.

One step of iterative back-projection (M. Irani and S. Peleg, "Improving resolution by image registration", CVGIP 53, 1991): the texture
is rendered into every photo, and what the rendering lacks to the photo is added to the texels, averaged over the photos that see them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numba import get_num_threads
from numpy.typing import NDArray

from services.postprocess.back_projection_kernels import Sight, collect, render, subtract
from services.postprocess.capture import Camera, Floats
from services.postprocess.colour import linear_table
from services.postprocess.threads import in_threads

if TYPE_CHECKING:
    from services.postprocess.texturing import Candidates

LEAST_SCORE = 0.01  # of a view: what is beside a jump in depth mixes two surfaces
TOLERANCE = 0.5  # of a texel's brightness: larger differences are another surface, a highlight, a passer-by

Float32 = NDArray[np.float32]


def sharpened(
    colours: Float32, points: Float32, origin: Floats, found: "Candidates", gains: Floats, cameras: Sequence[Camera], spacing_px: float
) -> Float32:
    """Linear colours n×3 of texels (`points` n×3 from `origin`, world axes) after one step; as they were where no photo tells.

    `cameras` are those that `found` was collected from, at the same sizes; `spacing_px`: distance of neighbouring texels in their pixels.
    """
    change = np.zeros((len(points), 4), np.float32)
    spread = float(np.clip(spacing_px, 0.5, 1.0))
    for i, (camera, photo) in enumerate(zip(cameras, in_threads(lambda camera: camera.photo(), cameras), strict=True)):
        pose = (camera.R, camera.t + camera.R @ origin, camera.K)
        sight = Sight(i, *pose, gains[i], points, colours, found.scores, found.views, LEAST_SCORE)
        pixels = np.zeros((camera.height, camera.width, 4), np.float32)
        render(sight, spread, get_num_threads(), pixels)
        subtract(photo, linear_table(), pixels)
        collect(sight, TOLERANCE, pixels, change)
    change[:, :3] /= np.maximum(change[:, 3:], 1e-9)
    change[:, :3] += colours
    return np.maximum(change[:, :3], 0)
