"""The last word on cameras: observations matched to a fraction of a pixel, then everything adjusted again."""

import copy
from dataclasses import replace

from services.sfm.bundle_adjustment import adjust, mean_squared_residuals
from services.sfm.colmap import pycolmap
from services.sfm.distortion import settle_distortion
from services.sfm.keypoint_refinement import Refinement, refine_keypoints
from services.sfm.ladder import Search
from services.sfm.params import SfmParams
from services.sfm.photos import Photo

ROBUST_PX = 0.3  # three times the residual of a refined observation on real photos
OUTLIER_PX = 1.0  # what is still so far off after it was refined was matched to something else
MIN_ANGLE_DEG = 1.5  # between the rays of a point, as in COLMAP's mapper


def refine(search: Search, params: SfmParams, reduction: int) -> None:
    """Replaces the best component by a refined one, where that fits better, with distortion only where the photos determine it."""
    best, fixed = search.components[0], search.fixed_cameras
    size = round(params.max_output_size * 0.6**reduction)
    model, search.refinement = refined(best.reconstruction, search.photos, fixed, size)
    search.components[0] = replace(best, reconstruction=settle_distortion(model, fixed))


def refined(
    model: pycolmap.Reconstruction, photos: list[Photo], fixed: frozenset[int], size: int
) -> tuple[pycolmap.Reconstruction, Refinement | None]:
    """The model after its observations were matched in photos of at most `size` pixels, if all its photos keep their place and it fits
    better; else the model as it is, and None."""
    scale = max(1.0, max(photo.longest_side for photo in photos) / size)
    result = copy.deepcopy(model)
    outcome = refine_keypoints(result, photos, size)
    for _ in range(2):  # outliers pull on the first
        adjust(result, fixed, ROBUST_PX * scale)
        pycolmap.ObservationManager(result).filter_all_points3D(OUTLIER_PX * scale, MIN_ANGLE_DEG)
    adjust(result, fixed, ROBUST_PX * scale)
    kept = sum(1 for i in result.reg_image_ids() if result.image(i).num_points3D > 0) == model.num_reg_images()
    return (result, outcome) if kept and _misfit(result) < _misfit(model) else (model, None)


def _misfit(model: pycolmap.Reconstruction) -> float:
    """Of its worst camera, px²."""
    return max(mean_squared_residuals(model).values(), default=float("inf"))
