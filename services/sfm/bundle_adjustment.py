"""Poses, points and lenses adjusted together, and how well observations then agree with them."""

import numpy as np
from numpy.typing import NDArray

from services.sfm.colmap import pycolmap

FUNCTION_TOLERANCE = 1e-5  # of the cost, per step: cameras move by less than a hundredth of a pixel after it

Floats = NDArray[np.float64]


def adjust(model: pycolmap.Reconstruction, fixed_cameras: frozenset[int], robust_px: float | None = None) -> None:
    """Least squares over all registered photos, in place; `robust_px`: residuals beyond it count less (soft L1). One thread: sums in
    another order give other cameras."""
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    options.ceres.solver_options.num_threads = 1
    options.ceres.solver_options.function_tolerance = FUNCTION_TOLERANCE
    if robust_px is not None:
        options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
        options.ceres.loss_function_scale = robust_px
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in model.reg_image_ids():
        config.add_image(image_id)
    for camera_id in fixed_cameras & set(model.cameras):
        config.set_constant_cam_intrinsics(camera_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()


def mean_squared_residuals(model: pycolmap.Reconstruction) -> dict[int, float]:
    """Camera id → mean of the squared reprojection errors of its photos' observations, px²; cameras without observations are left out,
    and so are points behind a camera."""
    squares: dict[int, list[Floats]] = {}
    for image_id in sorted(model.reg_image_ids()):
        image = model.image(image_id)
        observed = image.get_observation_points2D()
        if not observed:
            continue
        points = np.array([model.point3D(point.point3D_id).xyz for point in observed])
        seen = model.camera(image.camera_id).img_from_cam(image.cam_from_world() * points)
        squares.setdefault(image.camera_id, []).append(((seen - np.array([point.xy for point in observed])) ** 2).sum(axis=1))
    return {camera_id: float(np.nanmean(np.concatenate(values))) for camera_id, values in squares.items()}
