"""Which lenses have a distortion that the photos determine.

Bundle adjustment always finds one. On a turntable, or with a small object in the middle of the photo, it trades against the focal length at
almost no cost (temple-ring: k = -0.31 and a focal length 2 % too long, for a lens that has none), and on rendered photos it is noise of
a quarter of a pixel in the corners. Both go away when distortion is held at zero wherever it explains next to nothing.
"""

import copy

from services.sfm.bundle_adjustment import adjust, mean_squared_residuals
from services.sfm.colmap import pycolmap

EXPLAINED = 0.02  # of the squared residuals: up to 0.015 where k is truly zero (temple-ring), 0.05 on seven pictures where it is 0.02


def settle_distortion(model: pycolmap.Reconstruction, fixed_cameras: frozenset[int]) -> pycolmap.Reconstruction:
    """The model with k = 0 for each camera whose squared residuals grow by less than the share `EXPLAINED` without it. `fixed_cameras` stay
    as they are."""
    loose = {i for i in _used_cameras(model) - fixed_cameras if model.camera(i).model == pycolmap.CameraModelId.SIMPLE_RADIAL}
    if not loose:
        return model
    before = mean_squared_residuals(model)
    straight = _held(model, loose, fixed_cameras)
    after = mean_squared_residuals(straight)
    undetermined = {i for i in loose if after.get(i, 0.0) < (1 + EXPLAINED) * before.get(i, 0.0)}
    if undetermined == loose:
        return straight
    return _held(model, undetermined, fixed_cameras) if undetermined else model


def _held(model: pycolmap.Reconstruction, held: set[int], fixed_cameras: frozenset[int]) -> pycolmap.Reconstruction:
    """Adjusted anew without a distortion for the cameras `held`."""
    result = copy.deepcopy(model)
    for camera_id in held:
        camera = result.camera(camera_id)
        f, cx, cy = camera.focal_length, camera.principal_point_x, camera.principal_point_y
        camera.model, camera.params = pycolmap.CameraModelId.SIMPLE_PINHOLE, [f, cx, cy]
    adjust(result, fixed_cameras)
    for camera_id in held:
        camera = result.camera(camera_id)
        params = list(camera.params)
        camera.model, camera.params = pycolmap.CameraModelId.SIMPLE_RADIAL, [*params, 0.0]
    return result


def _used_cameras(model: pycolmap.Reconstruction) -> set[int]:
    return {model.image(i).camera_id for i in model.reg_image_ids()}
